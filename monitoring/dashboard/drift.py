"""How far the features have moved from the training period."""

import streamlit as st

from monitoring import reports
from monitoring.dashboard.read import parquet
from monitoring.drift import DRIFT, page
from nextbuy.settings import Settings


def show() -> None:
    """Draw the page."""
    st.title("Drift")
    settings = Settings()
    runs = parquet(f"{reports.folder(settings, DRIFT)}/*.parquet")
    if runs is None:
        st.info("Nothing was compared yet. Run `nextbuy monitor`.")
        return
    newest = runs[runs["compared_at"] == runs["compared_at"].max()]
    newest = newest.sort_values("distance", ascending=False)
    st.metric("Features that moved", f"{int(newest['is_drifted'].sum())} of {len(newest)}")
    history = runs.sort_values("compared_at").groupby("feature")["distance"].agg(list)
    ranked = newest.assign(history=newest["feature"].map(history))
    st.dataframe(
        ranked[["feature", "distance", "threshold", "is_drifted", "history", "method"]],
        column_config={"history": st.column_config.LineChartColumn("history")},
        hide_index=True,
    )
    if page(settings).exists():
        st.download_button(
            "Evidently's full report", page(settings).read_bytes(), "drift.html", "text/html"
        )

"""What the rules said, run by run, and what was refused."""

import streamlit as st

from monitoring import reports
from monitoring.dashboard.read import parquet
from nextbuy.settings import Settings


def show() -> None:
    """Draw the page."""
    st.title("Data quality")
    settings = Settings()
    runs = parquet(f"{reports.folder(settings, reports.CHECKS)}/*.parquet")
    if runs is None:
        st.info("Nothing was checked yet. Run `nextbuy ingest` or `nextbuy monitor`.")
    else:
        moments = sorted(runs["checked_at"].unique(), reverse=True)
        at = st.selectbox("Run", moments, format_func=lambda m: f"{m:%Y-%m-%d %H:%M:%S} UTC")
        chosen = runs[runs["checked_at"] == at].sort_values(["passed", "severity", "rule"])
        st.metric("Rules kept", f"{int(chosen['passed'].sum())} of {len(chosen)}")
        columns = ["passed", "severity", "rule", "columns", "unexpected", "observed", "remedy"]
        st.dataframe(chosen[columns], hide_index=True)
    st.subheader("Quarantine")
    refused = parquet(f"{settings.quarantine}/**/*.parquet")
    if refused is None or refused.empty:
        st.success("No row was refused.")
        return
    if "reason" in refused:
        st.bar_chart(refused["reason"].value_counts())
    st.dataframe(refused.head(1000), hide_index=True)
    st.download_button("Download as CSV", refused.to_csv(index=False), "quarantine.csv")

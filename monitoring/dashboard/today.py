"""Health at a glance."""

import json

import streamlit as st

from nextbuy.settings import Settings
from nextbuy.storage import manifest


def show() -> None:
    """Draw the page."""
    st.title("Today")
    settings = Settings()
    events = manifest(settings.events)
    if events is None:
        st.info(
            "Nothing is ingested yet. Run `nextbuy demo`, or `nextbuy ingest LOG --source NAME`."
        )
        return
    report = settings.reports / "evaluation.json"
    evaluation = json.loads(report.read_text()) if report.exists() else None
    columns = st.columns(4)
    columns[0].metric("Events", f"{events.rows:,}")
    columns[1].metric("Newest day", max(events.days, default="-"))
    labels = manifest(settings.labels)
    columns[2].metric("Labelled rows", f"{labels.rows:,}" if labels else "-")
    if evaluation:
        metrics = evaluation["models"][evaluation["champion"]]
        columns[3].metric("Champion's PR-AUC", f"{metrics['pr_auc']['value']:.3f}")
    else:
        columns[3].metric("Champion's PR-AUC", "-")
        st.info("No model was evaluated yet. Run `nextbuy train` and `nextbuy evaluate`.")
    st.subheader("Tables")
    tables = {"events": events, "sessions": manifest(settings.sessions), "labels": labels}
    tables |= {f.parent.name: manifest(f.parent) for f in settings.features.glob("*/manifest.json")}
    st.dataframe(
        [
            {"table": name, "rows": m.rows, "from": min(m.days), "to": max(m.days)}
            for name, m in tables.items()
            if m is not None and m.days
        ],
        hide_index=True,
    )

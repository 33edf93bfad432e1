"""The champion beside the baselines and, on simulated data, the best possible score."""

import json

import streamlit as st

from nextbuy.settings import Settings


def show() -> None:
    """Draw the page."""
    st.title("Model")
    report_file = Settings().reports / "evaluation.json"
    if not report_file.exists():
        st.info("No model was evaluated yet. Run `nextbuy train`, then `nextbuy evaluate`.")
        return
    report = json.loads(report_file.read_text())
    test = report["test"]
    st.caption(
        f"Version {report['version']} ({report['family']}), tested on {test['rows']:,} rows from "
        f"{test['from'][:10]} to {test['to'][:10]}, {test['base_rate']:.2%} of them positive."
    )
    rows = [
        {"model": name, **{metric: value["value"] for metric, value in metrics.items()}}
        for name, metrics in report["models"].items()
    ]
    st.dataframe(rows, hide_index=True)
    st.subheader("PR-AUC")
    st.bar_chart({row["model"]: row["pr_auc"] for row in rows}, horizontal=True)
    if report["achievable"]:
        share = report["achievable"]["pr_auc"]
        st.metric("Share of the achievable PR-AUC", f"{share:.0%}")

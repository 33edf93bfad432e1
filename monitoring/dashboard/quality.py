"""The results of the checks, the metrics of each day, and the refused rows."""

import altair as alt
import pandas as pd
import streamlit as st

from monitoring import reports
from monitoring.config import load_config
from monitoring.dashboard.read import (
    BAD,
    FAILED,
    GOOD,
    NOT_APPLIED,
    PASSED,
    last_checks,
    outcomes,
    page,
    parquet,
    series,
    show_chart,
)
from monitoring.event_profile import PROFILE_METRICS, anomalies
from nextbuy.settings import Settings
from nextbuy.sql import literal

HOURS = 30
"""Hours with checks that are drawn, the newest."""
SHOWN = 1000
"""Refused rows in the table and in the download."""


@page("Data quality", "Checks of every table, metrics of every day, and the refused rows.")
def show() -> None:
    """Draw the page."""
    checks, days, refused = st.tabs(["Checks", "Days", "Quarantine"])
    with checks:
        _checks()
    with days:
        _days()
    with refused:
        _quarantine()


def _checks() -> None:
    runs = series(reports.CHECKS)
    if runs is None:
        st.info("Nothing was checked yet. Run `nextbuy ingest` or `nextbuy monitor`.")
        return
    last = last_checks(runs)
    broken, small = last[last["outcome"] == FAILED], last[last["outcome"] == NOT_APPLIED]
    n_passed, n_applied = int((last["outcome"] == PASSED).sum()), len(last) - len(small)
    columns = st.columns(4)
    columns[0].metric("Checks passed", f"{n_passed} of {n_applied}", border=True)
    columns[1].metric("Too small to judge", len(small), border=True)
    columns[2].metric(
        "Blocking checks failed", int((broken["severity"] == "block").sum()), border=True
    )
    columns[3].metric("Rows checked", f"{last.groupby('table')['rows'].max().sum():,}", border=True)
    # By the hour: building the tables checks them one after the other, which shows as one run.
    hourly = runs.assign(run=runs["checked_at"].dt.strftime("%Y-%m-%d %H:00"))
    hourly = hourly[hourly["run"].isin(sorted(hourly["run"].unique())[-HOURS:])]
    ended = hourly.sort_values("checked_at").groupby(["run", "table", "rule"]).tail(1)
    over_time = (
        ended.groupby(["run", "table"])
        .agg(
            failed=("passed", lambda passed: int((outcomes(passed) == FAILED).sum())),
            checks=("passed", "size"),
        )
        .reset_index()
    )
    st.subheader("Failed checks, run by run")
    show_chart(
        alt.Chart(over_time)
        .mark_rect(cornerRadius=2, stroke="gray", strokeWidth=0.3)
        .encode(
            x=alt.X("run:O", title=None, axis=alt.Axis(labelAngle=-30)),
            y=alt.Y("table:N", title=None, axis=alt.Axis(labelOverlap=False)),
            color=alt.condition("datum.failed > 0", alt.value(BAD), alt.value(GOOD)),
            tooltip=["run", "table", "checks", "failed"],
        ),
        max(120, 26 * over_time["table"].nunique()),
    )
    st.subheader("Checks at their last run")
    table = st.selectbox("Table", ["all tables", *sorted(last["table"].unique())])
    chosen = last if table == "all tables" else last[last["table"] == table]
    shown = ["table", "rule", "outcome", "severity", "observed", "unexpected", "columns", "remedy"]
    st.dataframe(
        chosen.sort_values(["outcome", "severity", "table", "rule"])[shown], hide_index=True
    )


def _days() -> None:
    days = parquet(Settings().reports / reports.PROFILE)
    if days is None:
        st.info("No day was compared yet. Run `nextbuy monitor`.")
        return
    days = days.sort_values("day").iloc[:-1]  # the newest still runs
    unusual = _unusual(days)
    st.markdown(
        f"Each of {len(days)} whole days, compared with the four weeks before it. "
        + (f"**{len(unusual)}** values stood out." if len(unusual) else "No value stood out.")
    )
    names = [metric.name for metric in PROFILE_METRICS if days[metric.name].notna().any()]
    first = [*dict.fromkeys([*unusual["metric"], "events", "users", "median_price"])]
    chosen = st.multiselect("Metrics", names, default=[n for n in first if n in names][:4])
    for start in range(0, len(chosen), 2):
        for place, name in zip(st.columns(2), chosen[start : start + 2], strict=False):
            with place:
                line = (
                    alt.Chart(days)
                    .mark_line(strokeWidth=1.5)
                    .encode(
                        x=alt.X("day:T", title=None),
                        y=alt.Y(f"{name}:Q", title=name.replace("_", " ")),
                    )
                )
                marks = (
                    alt.Chart(unusual[unusual["metric"] == name])
                    .mark_point(color=BAD, size=70, filled=True)
                    .encode(x="day:T", y="value:Q", tooltip=["day:T", "value", "usual", "reason"])
                )
                show_chart(line + marks, 220)
    if len(unusual):
        st.dataframe(unusual, hide_index=True)


@st.cache_data(show_spinner=False)
def _unusual(days: pd.DataFrame) -> pd.DataFrame:
    """What a run on each day would have reported of it."""
    config = load_config().profile
    rows = [
        anomaly.model_dump()
        for end in range(config.reference_days + 1, len(days) + 1)
        for anomaly in anomalies(days.iloc[:end], config)
        if anomaly.span == "day"
    ]
    columns = ["day", "metric", "value", "usual", "reason"]
    table = pd.DataFrame(rows, columns=[*columns, "span", "z"])[columns]
    return table.assign(day=pd.to_datetime(table["day"])).sort_values("day", ascending=False)


def _quarantine() -> None:
    pattern = f"{Settings().quarantine}/**/*.parquet"
    counts = parquet(pattern, "reason, count(*) AS rows", "true GROUP BY reason")
    if counts is None or counts.empty:
        st.success("No row was refused.")
        return
    counts = counts.sort_values("rows", ascending=False)
    show_chart(
        alt.Chart(counts)
        .mark_bar()
        .encode(
            x=alt.X("rows:Q", title="refused rows"),
            y=alt.Y(
                "reason:N",
                sort="-x",
                title=None,
                axis=alt.Axis(labelLimit=240, labelOverlap=False),
            ),
            tooltip=["reason", "rows"],
        ),
        60 + 28 * len(counts),  # the axis takes the sixty
    )
    reason = st.selectbox("Reason", counts["reason"])
    rows = parquet(pattern, "*", f"reason = {literal(reason)} LIMIT {SHOWN}")
    assert rows is not None
    total = int(counts.loc[counts["reason"] == reason, "rows"].iloc[0])
    st.caption(f"{len(rows):,} of {total:,} rows")
    st.dataframe(rows, hide_index=True)
    st.download_button("Download as CSV", rows.to_csv(index=False), f"quarantine-{reason}.csv")

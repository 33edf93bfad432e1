"""Health at a glance."""

import streamlit as st

from monitoring import reports
from monitoring.dashboard.read import (
    NOT_APPLIED,
    PASSED,
    json_file,
    last_checks,
    page,
    parquet,
    series,
    show_chart,
)
from monitoring.drift import subject_of
from nextbuy.settings import Settings
from nextbuy.times import age_in_words
from nextbuy.versioned_table import manifest

ICONS = {
    "raised": ":material/notifications_active:",
    "recovering": ":material/trending_flat:",
    "acknowledged": ":material/done:",
    "silenced": ":material/notifications_off:",
}


@page("Today", "Is everything as it should be? Every number is from the last `nextbuy monitor`.")
def show() -> None:
    """Draw the page."""
    settings = Settings()
    events = manifest(settings.events)
    if events is None:
        st.info(
            "Nothing is ingested yet. Run `nextbuy demo`, or `nextbuy ingest LOG --source NAME`."
        )
        return
    _alerts()
    _tiles(settings, events.rows, max(events.days, default="-"))
    _traffic(settings)
    st.subheader("Tables")
    tables = {"events": events}
    for folder in (settings.sessions, *sorted(settings.features.glob("*")), settings.labels):
        published = manifest(folder)
        if published is not None:
            tables[folder.name] = published
    st.dataframe(
        [
            {"table": name, "rows": m.rows, "from": min(m.days), "to": max(m.days)}
            for name, m in tables.items()
            if m.days
        ],
        column_config={"rows": st.column_config.NumberColumn(format="localized")},
        hide_index=True,
    )


def _alerts() -> None:
    runs = series(reports.ALERTS)
    if runs is None:
        st.info("Nothing was monitored yet. Run `nextbuy monitor` (or `--at newest`).")
        return
    last = runs[runs["ran_at"] == runs["ran_at"].max()]
    raised = last[last["state"].isin(list(ICONS))].sort_values(["level", "alert"])
    at = f"as of {last['at'].iloc[0]:%Y-%m-%d %H:%M} UTC"
    loud = raised[raised["state"] == "raised"]
    if (loud["level"] == "fail").any():
        st.error(f"**{len(loud)} alerts** are raised, {at}.", icon=":material/error:")
    elif len(loud):
        st.warning(f"**{len(loud)} alerts** are raised, {at}.", icon=":material/warning:")
    else:
        st.success(f"**No alert is raised**, {at}.", icon=":material/check_circle:")
    for alert in raised.itertuples():
        label = f"{alert.alert.replace('_', ' ')} ({alert.level}), since {alert.since:%Y-%m-%d}"
        with st.expander(f"{ICONS[alert.state]} {label}", expanded=alert.level == "fail"):
            st.markdown(alert.message)
            if alert.features:
                st.markdown(f"Columns: `{alert.features}`")
            if alert.remedy:
                st.markdown(f"**What to do:** {alert.remedy}")


def _tiles(settings: Settings, n_events: int, newest: str) -> None:
    checks, drift, weeks = (
        series(reports.CHECKS),
        series(reports.DRIFT),
        series(reports.PERFORMANCE),
    )
    delays, alerts = series(reports.LATENCY), series(reports.ALERTS)
    first, second = st.columns(4), st.columns(4)
    hours = None
    if alerts is not None:
        fresh = alerts[alerts["alert"] == "freshness"].sort_values("ran_at")
        hours = fresh["value"].iloc[-1] if len(fresh) else None
    first[0].metric(
        "Freshness",
        "-" if hours is None else age_in_words(hours),
        border=True,
        height="stretch",
        help=f"Newest event: {newest}",
    )
    passed, small = "-", 0
    if checks is not None:
        outcomes = last_checks(checks)["outcome"]
        small = int((outcomes == NOT_APPLIED).sum())
        passed = f"{int((outcomes == PASSED).sum())} of {len(outcomes) - small}"
    first[1].metric(
        "Checks passed",
        passed,
        border=True,
        height="stretch",
        help=f"{small} more had too little data to judge" if small else None,
    )
    drifted: str = "-"
    if drift is not None:
        against = drift[drift["against"] == "training"]
        now = against[against["compared_at"] == against["compared_at"].max()]
        now = now[now["week"] == now["week"].max()]
        now = now[now["feature"].map(subject_of) == "feature"]
        drifted = f"{int(now['is_drifted'].sum())} of {len(now)}"
    first[2].metric(
        "Features drifted",
        drifted,
        border=True,
        height="stretch",
        help="Newest week, compared with the training period; without what grows with the age of "
        "the log",
    )
    first[3].metric(
        "Events", f"{n_events:,}", border=True, height="stretch", help=f"The newest day is {newest}"
    )
    score, change, trend = "-", None, None
    if weeks is not None:
        matured = weeks[(weeks["state"] == "measured") & (weeks["origin"] == "backtest")]
        matured = matured[matured["measured_at"] == matured["measured_at"].max()].sort_values(
            "week"
        )
        if len(matured):
            values = matured["pr_auc"]
            score, trend = f"{values.iloc[-1]:.3f}", values.round(3).tolist()
            if len(values) > 1:
                change = f"{values.iloc[-1] - values.iloc[:-1].median():+.3f} to the weeks before"
    second[0].metric(
        "PR-AUC, newest matured week",
        score,
        change,
        border=True,
        height="stretch",
        chart_data=trend,
        chart_type="line",
        help="Compared with the median of the weeks before, as the alert `performance` does",
    )
    evaluation = json_file(settings.reports / "evaluation.json")
    champion = f"v{evaluation['version']} {evaluation['family']}" if evaluation else "-"
    second[1].metric("Champion", champion, border=True, height="stretch")
    p99 = f"{delays.sort_values('at')['p99_ms'].iloc[-1]:.0f} ms" if delays is not None else "-"
    second[2].metric(
        "Latency, p99", p99, border=True, height="stretch", help="Needs a running `nextbuy serve`"
    )
    logged = parquet(settings.predictions / "day=*" / "[!.]*.parquet", "count(*) AS n")
    second[3].metric(
        "Predictions served",
        f"{0 if logged is None else logged['n'][0]:,}",
        border=True,
        height="stretch",
    )


def _traffic(settings: Settings) -> None:
    days = parquet(settings.reports / reports.PROFILE, "day, events, users")
    if days is None:
        return
    days = days.sort_values("day").iloc[:-1]  # the newest still runs
    import altair as alt

    st.subheader("Traffic")
    columns = st.columns(2)
    for place, metric in zip(columns, ("events", "users"), strict=True):
        with place:
            base = alt.Chart(days).encode(
                x=alt.X("day:T", title=None), y=alt.Y(f"{metric}:Q", title=f"{metric} a day")
            )
            show_chart(base.mark_area(opacity=0.25, line=True), 200)

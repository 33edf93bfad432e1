"""How far features, predictions and target have drifted, and their distributions."""

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from monitoring import reports
from monitoring.dashboard.read import BAD, QUIET, bin_edges, page, parquet, series, show_chart
from monitoring.drift import PREDICTION, subject_of
from monitoring.drift import page as evidently
from monitoring.weeks import WEEK
from nextbuy.settings import Settings

AGAINST = {
    "training": "the training period",
    "previous": "the week before",
    "served": "history (served vectors, skew)",
}
BINS = 30


@page("Drift", "Distances between two windows: 0 is equal; the threshold is per column.")
def show() -> None:
    """Draw the page."""
    settings = Settings()
    runs = series(reports.DRIFT)
    if runs is None:
        st.info("Nothing was compared yet. Run `nextbuy monitor`.")
        return
    available = [against for against in AGAINST if (runs["against"] == against).any()]
    against = st.segmented_control(
        "Against", available, default=available[0], format_func=AGAINST.__getitem__
    )
    chosen = runs[runs["against"] == (against or available[0])]
    chosen = chosen.sort_values("compared_at").groupby(["week", "feature"]).tail(1)
    week = chosen["week"].max()
    newest = chosen[chosen["week"] == week].sort_values("distance", ascending=False)
    subjects = newest["feature"].map(subject_of)
    counted, growing = newest[subjects == "feature"], newest[subjects == "growing"]
    columns = st.columns(4)
    columns[0].metric("Week of", f"{week:%Y-%m-%d}", border=True, height="stretch")
    columns[1].metric(
        "Features drifted",
        f"{int(counted['is_drifted'].sum())} of {len(counted)}",
        border=True,
        height="stretch",
        help="Without those that grow with the age of the log, the prediction and the target",
    )
    for place, column in zip(columns[2:], ("probability", "label"), strict=True):
        weekly = chosen[chosen["feature"] == column].sort_values("week")
        name = "Prediction drift" if column == "probability" else "Target drift"
        value = f"{weekly['distance'].iloc[-1]:.3f}" if len(weekly) else "-"
        trend = weekly["distance"].round(4).tolist() if len(weekly) > 1 else None
        place.metric(
            name, value, border=True, height="stretch", chart_data=trend, chart_type="line"
        )
    _over_time(chosen[chosen["feature"].map(subject_of) == "feature"])
    st.subheader("Features, the largest distance first")
    history = chosen.sort_values("week").groupby("feature")["distance"].agg(list)
    newest = newest.assign(history=newest["feature"].map(history))
    _ranked(newest[subjects != "growing"], 420)
    if len(growing):
        st.subheader("Grow with the age of the log")
        st.caption(
            "Sums over everything so far, and times since something long past. They rise even in a "
            "shop that stays as it is, so that they moved is no news: "
            f"{int(growing['is_drifted'].sum())} of {len(growing)} are over the threshold."
        )
        _ranked(newest[subjects == "growing"], 260)
    names = [name for name in newest["feature"] if name != "label"]
    _spread(settings, names, against or available[0], week)
    _full_report(settings)


def _ranked(columns: pd.DataFrame, height: int) -> None:
    st.dataframe(
        columns[["feature", "history", "distance", "threshold", "is_drifted", "missing", "method"]],
        column_config={
            "history": st.column_config.LineChartColumn("week by week"),
            "distance": st.column_config.NumberColumn(format="%.3f"),
            "is_drifted": st.column_config.CheckboxColumn("drifted"),
            "missing": st.column_config.NumberColumn(format="percent"),
        },
        hide_index=True,
        height=height,
    )


def _over_time(chosen: pd.DataFrame) -> None:
    weekly = chosen.groupby("week")["is_drifted"].mean().reset_index(name="drifted")
    if len(weekly) < 2:
        return
    show_chart(
        alt.Chart(weekly)
        .mark_bar(color=QUIET)
        .encode(
            x=alt.X("yearmonthdate(week):O", title=None, axis=alt.Axis(labelAngle=-30)),
            y=alt.Y("drifted:Q", title="columns drifted", axis=alt.Axis(format="%")),
        ),
        180,
    )


def _spread(settings: Settings, names: list[str], against: str, week: pd.Timestamp) -> None:
    st.subheader("Two windows of one column")
    if against == "served":
        st.info("Served vectors are kept without names; compare rows with `nextbuy parity`.")
        return
    name = st.selectbox("Column", names)
    now = _scored(settings, name, week)
    if against == "previous":
        before, first = _scored(settings, name, week - WEEK), f"week of {week - WEEK:%Y-%m-%d}"
    else:
        before, first = _trained(settings, name), "training period"
    if before is None or now is None or before.empty or now.empty:
        st.info("The rows of one of the two windows are not kept: there is nothing to draw.")
        return
    both = _binned(before["value"], now["value"], (first, f"week of {week:%Y-%m-%d}"))
    show_chart(
        alt.Chart(both)
        .mark_bar(opacity=0.55)
        .encode(
            x=alt.X("value:O", title=name)
            if both["low"].isna().any()
            else alt.X("low:Q", bin="binned", title=name),
            x2=alt.X2("high:Q") if not both["low"].isna().any() else alt.Undefined,
            y=alt.Y("share:Q", title="share of rows", axis=alt.Axis(format="%"), stack=None),
            color=alt.Color(
                "window:N",
                title=None,
                scale=alt.Scale(domain=both["window"].unique().tolist(), range=[QUIET, BAD]),
                legend=alt.Legend(orient="top"),
            ),
            xOffset="window:N" if both["low"].isna().any() else alt.Undefined,
            tooltip=["window", "value", alt.Tooltip("share", format=".1%")],
        )
    )


def _scored(settings: Settings, name: str, week: pd.Timestamp) -> pd.DataFrame | None:
    """The column in the rows of a week since the training."""
    scored = settings.data / "monitoring" / "scored-*.parquet"
    start, end = (f"TIMESTAMPTZ '{moment.isoformat()}'" for moment in (week, week + WEEK))
    return parquet(
        scored, f'"{name}" AS value', f"predicted_at >= {start} AND predicted_at < {end}"
    )


def _trained(settings: Settings, name: str) -> pd.DataFrame | None:
    """The column in the rows that the newest training set was fitted on."""
    datasets = sorted(
        (settings.data / "datasets").glob("*.parquet"), key=lambda file: file.stat().st_mtime
    )
    if not datasets or name == PREDICTION:  # a training set holds no scores
        return None
    return parquet(datasets[-1], f'"{name}" AS value', "split = 'train'")


def _binned(before: pd.Series, now: pd.Series, windows: tuple[str, str]) -> pd.DataFrame:
    """Shares per bin of both windows; what lies outside of the bins is left out."""
    rows: list[dict[str, object]] = []
    if before.dtype == object or now.dtype == object:
        top = pd.concat([before, now]).value_counts().index[:20]
        for window, values in zip(windows, (before, now), strict=True):
            shares = values.value_counts(normalize=True)
            rows += [
                {"window": window, "value": str(v), "low": None, "share": shares.get(v, 0.0)}
                for v in top
            ]
        return pd.DataFrame(rows)
    every = pd.concat([before, now]).dropna().astype(float)
    edges = bin_edges(every if len(every) else pd.Series([0.0]), BINS)
    for window, values in zip(windows, (before, now), strict=True):
        known = values.dropna().astype(float)
        counts, _ = np.histogram(known, edges)
        for i, count in enumerate(counts):
            rows.append(
                {
                    "window": window,
                    "value": f"{edges[i]:,.4g} to {edges[i + 1]:,.4g}",
                    "low": edges[i],
                    "high": edges[i + 1],
                    "share": count / max(len(known), 1),
                }
            )
    return pd.DataFrame(rows)


def _full_report(settings: Settings) -> None:
    file = evidently(settings)
    st.subheader("Evidently's full report")
    if not file.exists():
        st.info("It comes with `nextbuy monitor` (or `--at newest`); the demo leaves it out.")
        return
    st.caption("Every column: drift, summary, and how well the model classifies.")
    st.download_button("Download", file.read_bytes(), "evidently.html", "text/html")
    if st.toggle("Show it here"):
        st.iframe(file, height=900)

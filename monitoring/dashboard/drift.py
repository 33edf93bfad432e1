"""How far features, predictions and target have drifted, and their distributions."""

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from monitoring import reports
from monitoring.dashboard.read import BAD, QUIET, page, parquet, series, show_chart
from monitoring.drift import page as evidently
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
    newest = newest.assign(ratio=newest["distance"] / newest["threshold"])
    columns = st.columns(4)
    columns[0].metric("Week of", f"{week:%Y-%m-%d}", border=True, height="stretch")
    columns[1].metric(
        "Columns drifted",
        f"{int(newest['is_drifted'].sum())} of {len(newest)}",
        border=True,
        height="stretch",
    )
    for place, column in zip(columns[2:], ("probability", "label"), strict=True):
        weekly = chosen[chosen["feature"] == column].sort_values("week")
        name = "Prediction drift" if column == "probability" else "Target drift"
        value = f"{weekly['distance'].iloc[-1]:.3f}" if len(weekly) else "-"
        trend = weekly["distance"].round(4).tolist() if len(weekly) > 1 else None
        place.metric(
            name, value, border=True, height="stretch", chart_data=trend, chart_type="line"
        )
    _over_time(chosen)
    st.subheader("Columns, the largest distance first")
    history = chosen.sort_values("week").groupby("feature")["distance"].agg(list)
    ranked = newest.assign(history=newest["feature"].map(history))
    st.dataframe(
        ranked[["feature", "history", "distance", "threshold", "is_drifted", "missing", "method"]],
        column_config={
            "history": st.column_config.LineChartColumn("week by week"),
            "distance": st.column_config.NumberColumn(format="%.3f"),
            "missing": st.column_config.NumberColumn(format="percent"),
        },
        hide_index=True,
        height=420,
    )
    _spread(settings, [name for name in ranked["feature"] if name != "label"])
    _full_report(settings)


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


def _spread(settings: Settings, names: list[str]) -> None:
    st.subheader("Two windows of one column")
    name = st.selectbox("Column", names)
    datasets = sorted(
        (settings.data / "datasets").glob("*.parquet"), key=lambda f: f.stat().st_mtime
    )
    scored = settings.data / "monitoring" / "scored-*.parquet"
    quoted = f'"{name}" AS value'
    now = parquet(
        scored,
        quoted,
        "predicted_at >= (SELECT max(predicted_at) FROM "
        f"read_parquet('{scored}')) - INTERVAL 14 DAY",
    )
    if not datasets or now is None or name == "probability":
        before = parquet(scored, quoted, "label IS NOT NULL") if name == "probability" else None
        first = "rows with a known outcome"
    else:
        before, first = parquet(datasets[-1], quoted, "split = 'train'"), "training period"
    if before is None or now is None:
        st.info("The data of the windows is gone. Run `nextbuy monitor`.")
        return
    both = _binned(before["value"], now["value"], (first, "last 14 days"))
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
                scale=alt.Scale(range=[QUIET, BAD]),
                legend=alt.Legend(orient="top"),
            ),
            xOffset="window:N" if both["low"].isna().any() else alt.Undefined,
            tooltip=["window", "value", alt.Tooltip("share", format=".1%")],
        )
    )


def _binned(before: pd.Series, now: pd.Series, windows: tuple[str, str]) -> pd.DataFrame:
    """Shares per bin of both windows; bins span the middle 99 % of the values."""
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
    whole = pd.concat([before, now]).dropna().astype(float)
    low, high = (whole.quantile(0.005), whole.quantile(0.995)) if len(whole) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    for window, values in zip(windows, (before, now), strict=True):
        known = values.dropna().astype(float).clip(edges[0], edges[-1])
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

"""The numbers of a run that alert rules judge.

Each step yields signals, and a text for a number that is not known yet. It raises NextbuyError if
something that it needs is missing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from monitoring import reports
from monitoring.alerts import Signal
from monitoring.champion_scores import compare_versions, scored_since, training_rows
from monitoring.checks import CheckReport
from monitoring.config import MonitoringConfig
from monitoring.drift import PREDICTION, TARGET, drift_rows, series, subject_of, write_page
from monitoring.event_profile import anomalies, daily_profile, not_comparable
from monitoring.log_gaps import GAP_DAYS, Gap, longest_gap
from monitoring.outcomes import join_outcomes
from monitoring.parity import parity as compare_live
from monitoring.performance import by_week, unsettled_since
from monitoring.service_metrics import own_service, scrape
from monitoring.weeks import weeks, with_matured_labels
from nextbuy.atomic import replacing
from nextbuy.contract import CHAMPION
from nextbuy.errors import NextbuyError
from nextbuy.log_span import LogSpan
from nextbuy.models.registry import load_alias
from nextbuy.prediction_log import read_predictions
from nextbuy.settings import Settings
from nextbuy.times import age_in_words, to_datetime
from nextbuy.versioned_table import files, manifest, require

Results = Iterator[Signal | str]
PARITY_DAYS = timedelta(days=7)
"""How far back a run compares served vectors; earlier runs compared the older ones."""
SERVED_ROWS = 10_000
"""The newest served vectors, and as many of history, whose distributions are compared."""
LOG_OF_THE_PAST_HOURS = 30 * 24
"""A feed that stands still is missed earlier than this."""
OUTCOME_COLUMNS = ("user_id", "item_id", "predicted_at", "probability", "model")


def newest_event(settings: Settings) -> datetime:
    """Time of the newest event.

    Raises:
        NextbuyError: there are no sessions yet.
    """
    us = int(require(settings.sessions, "nextbuy sessionize").info["newest_us"])
    return to_datetime(us)


def quality(checked: Sequence[CheckReport]) -> Iterator[Signal]:
    """Failed checks over all tables."""
    for name, failed, remedy in (
        (
            "quality_blocked",
            [(r.table, x) for r in checked for x in r.blocking],
            "Do not use the table: correct its source and publish it again.",
        ),
        (
            "quality_warned",
            [(r.table, x) for r in checked for x in r.warnings],
            "See the remedy of each check on the dashboard's page Data quality.",
        ),
    ):
        checks = sum(r.passed is not None for report in checked for r in report.results)
        listed = ", ".join(f"{table}.{result.check}" for table, result in failed)
        kind = "blocking" if name == "quality_blocked" else "warning"
        yield Signal(
            name=name,
            value=len(failed),
            message=f"{len(failed)} of {checks} checks fail, {kind}"
            + (f": {listed}." if failed else "."),
            remedy=remedy,
            features=tuple(sorted({c for _, result in failed for c in result.columns})),
        )


def unusual_days(settings: Settings, config: MonitoringConfig) -> Results:
    """Metrics of the newest whole day and week outside their usual range."""
    require(settings.events, "nextbuy ingest LOG --source NAME")
    sessions = manifest(settings.sessions)
    strays = LogSpan.from_info(sessions.info).strays if sessions else {}
    days = daily_profile(settings, files(settings.events))
    days = days[~pd.to_datetime(days["day"]).dt.strftime("%Y-%m-%d").isin(strays)]
    with replacing(settings.reports / reports.PROFILE) as file:
        days.to_parquet(file, index=False)
    whole = days.iloc[:-1]  # the newest day still runs
    if why := not_comparable(whole, config.profile):
        yield why
        return
    unusual = anomalies(whole, config.profile)
    yield Signal(
        name="unusual_days",
        value=len(unusual),
        message=" ".join(map(str, unusual))
        or f"{whole['day'].iloc[-1]:%Y-%m-%d} looks like the days before it.",
        remedy="See the metrics on the dashboard's page Data quality.",
        features=tuple(sorted({a.metric for a in unusual})),
    )


def freshness(settings: Settings, at: datetime) -> Results:
    """Hours since the newest event, and whether the log goes on up to it without a gap."""
    newest = newest_event(settings)
    hours = (at - newest).total_seconds() / 3600
    age = f"{age_in_words(hours)} old" if hours >= 0 else f"{age_in_words(-hours)} ahead"
    feed = "The feed stands still, or what came was not ingested: nextbuy daily LOG --source NAME"
    past = "nextbuy monitor --at newest"
    yield Signal(
        name="freshness",
        value=hours,
        message=f"The newest event is {age} ({newest:%Y-%m-%d %H:%M} UTC).",
        remedy=f"Is this a log of the past? Then: {past}. If not: {feed}"
        if hours > LOG_OF_THE_PAST_HOURS
        else f"{feed}. For a log of the past: {past}",
        unit="hours",
    )
    gap = longest_gap(settings)
    yield Signal(
        name="gap",
        value=gap.days if gap else 0,
        message=f"The log has no event {gap}; {gap.after:,} come after it."
        if gap
        else f"The newest {GAP_DAYS} days of the log have no gap.",
        remedy=gap.remedy if gap else "",
    )


def model(settings: Settings, config: MonitoringConfig, ran: datetime, pages: bool) -> Results:
    """Drift and performance on every row since the training."""
    champion = load_alias(settings, CHAMPION)
    training = training_rows(settings)
    rows = scored_since(settings, champion, training)
    training = training.append_column(PREDICTION, pa.array(champion.booster.score(training)))
    newest = newest_event(settings)
    labels = require(settings.labels, "nextbuy sessionize")
    horizon = timedelta(days=int(labels.info["labels"]["horizon_days"]))
    if rows.num_rows == 0:
        yield "No row is newer than the training period yet: nothing to compare."
        return
    measured = by_week(rows, "backtest", horizon, newest, ran, config.performance)
    reports.append(settings, reports.PERFORMANCE, measured, ran)
    known = rows.filter(pc.less(rows["predicted_at"], pa.scalar(newest - horizon)))
    known = known.filter(pc.is_valid(known[TARGET]))
    reports.append(settings, reports.VERSIONS, compare_versions(settings, known, ran), ran)
    yield from _performance(measured, champion.metrics, longest_gap(settings))
    complete = [(w, t) for w, t in weeks(rows) if w + timedelta(days=7) <= newest]
    weekly = with_matured_labels(complete, horizon, newest)
    drifts = series(training, weekly, ran, config.drift)
    if not drifts:
        yield f"No week since the training has {config.drift.min_rows} rows: nothing to compare."
        return
    reports.append(settings, reports.DRIFT, drifts, ran)
    yield from drift_signals(drifts)
    if pages:
        matured = [pair for pair in weekly if pair[1][TARGET].null_count == 0]
        week, window = (matured or weekly)[-1]
        columns = [r["feature"] for r in drifts if r["week"] == week and r["against"] == "training"]
        columns = [name for name in columns if name not in (PREDICTION, TARGET)]
        columns += [PREDICTION, *([TARGET] if matured else [])]
        write_page(settings, training.select(columns), window.select(columns), config.drift)


def served(settings: Settings, config: MonitoringConfig, at: datetime, ran: datetime) -> Results:
    """Performance of served predictions, and skew of their vectors against history's."""
    since = unsettled_since(settings)
    log = _answers(settings, since, OUTCOME_COLUMNS)
    if log.num_rows == 0:
        yield f"No prediction was served {f'since {since:%Y-%m-%d}' if since else 'yet'}. " + (
            "Serve some: nextbuy serve"
        )
        return
    labels = require(settings.labels, "nextbuy sessionize")
    horizon = timedelta(days=int(labels.info["labels"]["horizon_days"]))
    rows = join_outcomes(settings, log, at)
    measured = by_week(rows, "served", horizon, newest_event(settings), ran, config.performance)
    reports.append(settings, reports.PERFORMANCE, measured, ran)
    states = Counter({s["values"]: s["counts"] for s in rows["state"].value_counts().to_pylist()})
    counts = ", ".join(f"{states[s]:,} {s}" for s in ("matured", "open", "censored"))
    if log.num_rows < config.drift.min_rows:
        yield (
            f"{log.num_rows:,} predictions are logged ({counts}); "
            f"it takes {config.drift.min_rows} to compare them."
        )
        return
    champion = load_alias(settings, CHAMPION)
    features = champion.booster.contract.features
    newest_model = log["model"][-1].as_py()
    served_at = log.filter(pc.equal(log["model"], newest_model))["predicted_at"]
    vectors = _answers(settings, served_at[-SERVED_ROWS:][0].as_py(), ["model", "vector"])
    vectors = vectors.filter(pc.equal(vectors["model"], newest_model))["vector"][-SERVED_ROWS:]
    matrix = np.array(vectors.to_pylist(), np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != len(features):
        raise NextbuyError(
            f"Served vectors of {newest_model} do not have the champion's {len(features)} "
            "features. Restart the service with the champion: nextbuy serve"
        )
    history = scored_since(settings, champion, training_rows(settings))
    recent = champion.booster.contract.matrix(history)[-SERVED_ROWS:]
    past, live = (
        pa.table({n: pa.array(c, from_pandas=True) for n, c in zip(features, m.T, strict=True)})
        for m in (recent, matrix)
    )
    drifts = drift_rows(past, live, "served", ran, ran, config.drift)
    reports.append(settings, reports.DRIFT, drifts, ran)
    yield _share(
        "skew",
        drifts,
        f"of the served vectors differ from history's ({counts})",
        "Compare the live path row by row: nextbuy parity",
    )


def _answers(settings: Settings, start: datetime | None, columns: Sequence[str]) -> pa.Table:
    """Predictions that the service answered with its own features, since `start`."""
    log = read_predictions(settings, start, None, [*columns, "is_shadow", "has_context"])
    replaced = pc.fill_null(log["has_context"], False)
    return log.filter(pc.invert(pc.or_(log["is_shadow"], replaced))).select(list(columns))


def parity(settings: Settings, ran: datetime) -> Results:
    """Feature values that the service used and that the offline store does not confirm."""
    if not any(settings.predictions.glob("day=*/*.parquet")):
        return
    try:
        compared = compare_live(settings, ran - PARITY_DAYS)
    except NextbuyError as error:
        yield str(error)
        return
    if not compared.values:
        left_out = compared.degraded + compared.with_context + compared.not_comparable
        yield f"None of {left_out:,} logged rows can be compared: nextbuy parity says why."
        return
    yield Signal(
        name="parity",
        value=compared.mismatches,
        message=f"{compared.mismatches:,} of {compared.values:,} live values differ from "
        "the batch's.",
        remedy="See the features concerned: nextbuy parity",
        features=tuple(compared.features)[:10],
    )


def latency(settings: Settings, ran: datetime) -> Results:
    """The 99th percentile of the running service's response times since its start."""
    try:
        url = own_service(settings)
        times = scrape(url)
    except NextbuyError as error:
        yield str(error)
        return
    except httpx.HTTPError as error:
        yield f"The service at {url} shows no metrics ({error})."
        return
    if times is None:
        yield f"The service at {url} has answered no request yet."
        return
    reports.append(settings, reports.LATENCY, [{"at": ran, **times}], ran)
    yield Signal(
        name="latency",
        value=times["p99_ms"],
        message=f"99 % of {times['requests']:,} responses took under {times['p99_ms']:.0f} ms.",
        remedy="Compare the stages in the service's /metrics, and check the load of Redis.",
        unit="ms",
    )


def _performance(
    measured: Sequence[dict[str, Any]], metrics: dict[str, float], gap: Gap | None
) -> Results:
    matured = [row for row in measured if row["state"] == "measured"]
    if any(row["state"] == "one class" for row in measured):
        yield "A matured week has one class only: its ranking cannot be measured."
    if not matured:
        yield "No week since the training has matured: its performance is estimated, not measured."
        return
    last = matured[-1]
    before = [row["pr_auc"] for row in matured[:-1]] or [metrics.get("test_pr_auc", last["pr_auc"])]
    usual = float(np.median(before))
    lost = 1 - last["pr_auc"] / usual
    # A session that is missing from the log looks like a shopper who did not come back.
    is_long = gap is not None and gap.days > 1
    first = f"First the gap in the log {gap}: what was bought in it is missing. " if is_long else ""
    yield Signal(
        name="performance",
        value=lost,
        message=f"PR-AUC {last['pr_auc']:.3f} in the week of {last['week']:%Y-%m-%d}, the newest "
        f"that is matured; {usual:.3f} before, {abs(lost):.0%} {'less' if lost >= 0 else 'more'}.",
        remedy=f"{first}Compare slices on the page Model, then train again: nextbuy train",
        unit="share",
    )
    yield Signal(
        name="calibration",
        value=last["calibration_error"],
        message=f"Calibration error {last['calibration_error']:.3f} in that week.",
        remedy=f"{first}Train again to fit the calibration again: nextbuy train",
    )


def drift_signals(drifts: Sequence[dict[str, Any]]) -> Iterator[Signal]:
    """Share of the features that drifted by the newest week, and how far prediction and target did.

    Args:
        drifts: rows of `reports.DRIFT`, in the order of the weeks.
    """
    newest = max(row["week"] for row in drifts)
    now = [row for row in drifts if row["week"] == newest]
    for against, name in (("training", "drift"), ("previous", "drift_to_previous")):
        rows = [r for r in now if r["against"] == against]
        columns, growing = (
            [r for r in rows if subject_of(r["feature"]) == subject]
            for subject in ("feature", "growing")
        )
        if columns:
            text = "since the training period" if against == "training" else "since the week before"
            n_grown = sum(row["is_drifted"] for row in growing)
            apart = f" (and {n_grown} of {len(growing)} that grow with the age of the log)"
            yield _share(
                name,
                columns,
                f"drifted {text}{apart if growing else ''}",
                "See which on the page Drift; if the shop changed, train again.",
            )
    for column, name in ((PREDICTION, "prediction_drift"), (TARGET, "target_drift")):
        rows = [r for r in drifts if r["feature"] == column and r["against"] == "training"]
        if rows:
            last = rows[-1]
            ratio = (last["distance"] or 0) / last["threshold"]
            yield Signal(
                name=name,
                value=ratio,
                message=f"The {name.split('_')[0]} of the week of {last['week']:%Y-%m-%d} is "
                f"{ratio:.2f} of the threshold away from the training period's.",
                remedy="See the page Drift; if the shop changed, train again: nextbuy train",
            )


def _share(name: str, rows: Sequence[dict[str, Any]], text: str, remedy: str) -> Signal:
    drifted = [row for row in rows if row["is_drifted"]]
    return Signal(
        name=name,
        value=len(drifted) / len(rows),
        message=f"{len(drifted)} of {len(rows)} features {text}.",
        remedy=remedy,
        features=tuple(row["feature"] for row in drifted[:10]),
        unit="share",
    )

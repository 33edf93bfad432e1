"""What must hold of a feature table; read off the catalogue, nothing is named twice."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise

from monitoring.rules import Check, one_row_per, present, query_check, row_check, shape_checks
from nextbuy.features import Feature, FeatureTable
from nextbuy.features.table import SQL_TYPES

REBUILD = "Build the table again with the current code: nextbuy features"
STAMPS = ("event_timestamp", "created_timestamp")
NEVER_NEGATIVE = ("count", "seconds", "share", "position")
WIDTH = {"1d": 1, "7d": 7, "30d": 30, "lifetime": 10**6}


def feature_checks(table: FeatureTable, newest: datetime) -> list[Check]:
    """The suite of one feature table; `newest` is the time of the newest event it was made from."""
    types = (
        dict.fromkeys(table.keys, "VARCHAR")
        | dict.fromkeys(STAMPS, "TIMESTAMP WITH TIME ZONE")
        | {feature.name: SQL_TYPES[feature.dtype] for feature in table.features}
    )
    checks = [
        *shape_checks(types),
        *(present(key, REBUILD) for key in table.keys),
        row_check(
            "known_when_created",
            STAMPS,
            "event_timestamp IS NULL OR created_timestamp IS NULL "
            "OR created_timestamp < event_timestamp",
            REBUILD,
        ),
        row_check(
            "nothing_from_the_future",
            "event_timestamp",
            f"event_timestamp > TIMESTAMPTZ '{newest.isoformat()}'",
            REBUILD,
        ),
        one_row_per((*table.keys, "event_timestamp"), REBUILD),
    ]
    for name, conditions in (
        ("finite", [f"NOT isfinite({f.name})" for f in table.features if f.dtype == "float64"]),
        ("not_negative", [f"{f.name} < 0" for f in table.features if f.unit in NEVER_NEGATIVE]),
        ("windows_nested", [f"{a} > {b}" for a, b in _nested(table.features)]),
    ):
        if conditions:
            columns = tuple(f.name for f in table.features if any(f.name in c for c in conditions))
            checks.append(row_check(name, columns, " OR ".join(conditions), REBUILD))
    counted = ", ".join(f"count({f.name}) AS {f.name}" for f in table.features)
    checks.append(
        query_check(
            "features_filled",
            tuple(f.name for f in table.features),
            f"SELECT feature FROM (UNPIVOT (SELECT {counted} FROM {{batch}}) "
            "ON COLUMNS(*) INTO NAME feature VALUE n) WHERE n = 0",
            "A feature without any value says nothing: declare what the log lacks in the source "
            "file, so that the feature is left out.",
            "warn",
        )
    )
    return checks


def _nested(features: Iterable[Feature]) -> list[tuple[str, str]]:
    """Pairs of a measure over a window and over the next wider one, which holds it."""
    families: dict[str, list[Feature]] = defaultdict(list)
    for feature in features:
        if feature.window in WIDTH and feature.unit in ("count", "cents"):
            families[feature.name.removesuffix(f"_{feature.window}")].append(feature)
    pairs = []
    for family in families.values():
        ordered = sorted(family, key=lambda f: WIDTH[f.window])
        pairs += [(a.name, b.name) for a, b in pairwise(ordered)]
    return pairs

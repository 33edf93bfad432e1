"""What a feature and a feature table are."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

import ibis
import ibis.expr.types as ir

from nextbuy.shop import SessionConfig
from nextbuy.shop_clock import UTC_CLOCK, ShopClock

RowsBuilder = Callable[[ir.Table, ir.IntegerScalar | None, ShopClock, int | None], ir.Table]
"""(session events, `first_us`, the shop's clock, `gap_us`) -> keys, `event_us` and what features
read. `gap_us` is None for a log without log-ins.

Rows stamped before `first_us` are not used; they may be left out or hold anything."""

SQL_TYPES = {
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "string": "VARCHAR",
    "boolean": "BOOLEAN",
    "array<string>": "VARCHAR[]",
}
"""Type of a feature -> what is written; sums of 64-bit integers come back wider than that."""


@dataclass(frozen=True, eq=False)
class Feature:
    """One feature: what it means and how it is computed, nowhere else.

    `expr` takes the table's rows; left out, it is the column of the same name. `needs` names the
    optional event columns and event types without which the feature says nothing: a log that
    lacks one has the feature left out of its views. `carry` tells how the column goes on from the
    table's earlier value when only recent events are at hand: added to it, or the last one known.
    `grows` marks what rises with the age of the log in a shop that stays as it is, a sum over
    everything so far or the time since something long past: that it moved is no news.
    """

    name: str
    dtype: str
    description: str
    expr: Callable[[ir.Table], ir.Value] | None = None
    unit: str = "count"
    window: str = "lifetime"
    needs: Collection[str] = frozenset()
    carry: Literal["sum", "last"] | None = None
    grows: bool = False

    @property
    def tags(self) -> dict[str, str]:
        """What the registry and the catalogue say of it besides type and description."""
        return {
            "unit": self.unit,
            "window": self.window,
            "source": ", ".join(sorted(self.needs)) or "events",
            "cold_start": "missing",  # a key never seen has no row
        }

    def column(self, rows: ir.Table) -> ir.Value:
        """The feature as an Ibis column of `rows`."""
        return (self.expr(rows) if self.expr else rows[self.name]).name(self.name)


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """A feature view's rows: entity keys, the moment they became knowable, features.

    >>> from nextbuy.features import TABLES
    >>> [table.name for table in TABLES if table.keys == ("item_id",)]
    ['item']
    """

    name: str
    keys: tuple[str, ...]
    description: str
    features: tuple[Feature, ...]
    rows: RowsBuilder
    in_model: bool = True
    """Whether the model's feature service holds this view."""
    gap_us: int | None = SessionConfig().gap_us
    """The pause that ends a session: a log-in goes on with a visit that did not pause so long. None
    for a log without log-ins, where nothing is looked for that they could link."""

    def build(
        self,
        session_events: ir.Table,
        before: ir.Table | None = None,
        first_us: ir.IntegerScalar | None = None,
        clock: ShopClock = UTC_CLOCK,
    ) -> ir.Table:
        """Columns: the keys, `event_us`, then the features in order; one row per key and moment.

        Args:
            session_events: the shape of `nextbuy.tables.sessions.SESSION_EVENTS`.
            before: keys and `carried` features as they stood when these events begin; without it,
                these events are all there are.
            first_us: no row is stamped before it; without it, all there are.
            clock: the shop's, for the time that these events span.
        """
        rows = self.rows(session_events, first_us, clock, self.gap_us)
        if before is not None:
            rows = self._carry_on(rows, before)
        if first_us is not None:
            rows = rows.filter(rows.event_us >= first_us)
        return rows.select(
            *self.keys, "event_us", *(feature.column(rows) for feature in self.features)
        )

    def full_name(self, feature: str) -> str:
        """`view__feature`, as Feast names a feature of this table in a joined row.

        Raises:
            KeyError: the table has no such feature.
        """
        if feature not in {f.name for f in self.features}:
            raise KeyError(f"{self.name} has no feature {feature!r}")
        return f"{self.name}__{feature}"

    @property
    def carried(self) -> dict[str, str]:
        """Features that go on from their earlier value -> their type."""
        return {f.name: f.dtype for f in self.features if f.carry}

    def _carry_on(self, rows: ir.Table, before: ir.Table) -> ir.Table:
        named = before.rename({f"{name}_before": name for name in self.carried})
        joined = rows.left_join(named, list(self.keys)).select(
            *(rows[name] for name in rows.columns), *(f"{name}_before" for name in self.carried)
        )
        columns = {}
        for name, how in ((f.name, f.carry) for f in self.features if f.carry):
            now, then = joined[name], joined[f"{name}_before"]
            columns[name] = now + then.fill_null(0) if how == "sum" else ibis.coalesce(now, then)
        return joined.mutate(**columns)

    def supported_by(
        self, provides: Collection[str], gap_us: int = SessionConfig().gap_us
    ) -> "FeatureTable":
        """The table without what a log cannot support."""
        kept = tuple(f for f in self.features if set(f.needs) <= set(provides))
        return replace(self, features=kept, gap_us=gap_us if "login" in provides else None)


def windowed(
    name: str,
    description: str,
    windows: Collection[str],
    *,
    unit: str = "count",
    needs: Collection[str] = (),
) -> list[Feature]:
    """One integer feature per window of a summed measure; `""` is the lifetime."""
    return [
        Feature(
            f"{name}{suffix}",
            "int64",
            f"{description}{WORDS[suffix]}",
            unit=unit,
            window=suffix.removeprefix("_") or "lifetime",
            needs=frozenset(needs),
            carry=None if suffix else "sum",
            grows=not suffix,
        )
        for suffix in windows
    ]


WORDS = {
    "": " so far",
    "_1d": " in the last day",
    "_7d": " in the last 7 days",
    "_30d": " in the last 30 days",
}


def ratio(part: ir.Value, whole: ir.Value) -> ir.Value:
    """`part / whole` as a double; null where there is nothing to divide by."""
    return part.cast("float64") / whole.cast("float64").nullif(0.0)

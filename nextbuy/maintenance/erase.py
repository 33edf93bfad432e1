"""Erasure: removes what belongs to a shopper, and nothing else, then searches for what is left.

A row belongs to the shopper if a column that holds shoppers' ids equals the id. Which columns those
are, each schema declares beside itself; which files there are is in `nextbuy.maintenance.places`.
A dry run counts and names; with `remove` the same code removes what it counted.

Sums over many people (an item's views, a fitted model) do not name the person. The tables lose
their share when they are built again: `nextbuy sessionize` and the verbs after it.
"""

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import redis

from nextbuy.atomic import replacing, write_text
from nextbuy.errors import NextbuyError
from nextbuy.live.sync import copy_lock
from nextbuy.maintenance import erase_live, erase_redis
from nextbuy.maintenance.erase_files import RowCounts, rows_in, text_is_in, update_manifest
from nextbuy.maintenance.linked_ids import LinkedId, linked_ids
from nextbuy.maintenance.places import ShopFile, leftovers, shop_files, shops_below
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import running_redis, shown
from nextbuy.writer_lock import sole_writer

JOURNAL = "forgetting.json"
"""In the data folder while an erasure is at work: whom it removes. The next one completes what an
interrupted one left, whose log-ins may be gone already."""
SHOWN = 20  # ids or files in a list


@dataclass
class Holdings:
    """What is there of some shoppers."""

    rows: Counter[str] = field(default_factory=Counter)
    """Place -> rows (Redis: keys; reports: mentions)."""
    where: list[str] = field(default_factory=list)
    """The files and keys that hold them."""
    others: int = 0
    """Rows of other shoppers among them: 0, or nothing is removed."""
    unattributed: int = 0
    """Refused rows that mention an id and cannot be read, so that they may be another's."""
    unknown_keys: int = 0
    """Packed rows in Redis of a view that the registry does not have; they may be theirs."""
    searched: int = 0
    """Files and keys."""

    def add(self, place: str, where: str, counts: RowCounts) -> None:
        """Add what one file or store holds."""
        self.others += counts.others
        self.unattributed += counts.unattributed
        if counts.theirs:
            self.rows[place] += counts.theirs
            self.where.append(where)


@dataclass
class ErasureReport:
    """What belongs to a shopper, whether it was removed, and what a search then came upon."""

    user: str
    taken: list[LinkedId]
    """Linked ids that are removed too."""
    not_taken: list[LinkedId]
    shoppers: list[str]
    """Shoppers that log-ins say this visitor is: they are not removed."""
    resumed: list[str] = field(default_factory=list)
    """Ids of an erasure that was interrupted, completed by this one."""
    holdings: Holdings = field(default_factory=Holdings)
    is_removed: bool = False
    left: list[str] = field(default_factory=list)
    """Where an id still is; empty after a removal proves it."""
    searched: int = 0
    """Files and keys of the search."""
    mentioned_in: list[str] = field(default_factory=list)
    """Files without columns of shoppers that hold the text of an id; it may mean something else."""
    notes: list[str] = field(default_factory=list)

    @property
    def removed(self) -> dict[str, int]:
        """Place -> rows that were removed."""
        return dict(self.holdings.rows) if self.is_removed else {}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        verb = "removed" if self.is_removed else "to remove"
        for place, count in self.holdings.rows.items():
            yield f"{place:<14} {count:>9,} {verb}"
        if not self.holdings.rows:
            yield f"no row, key or report is about {_shown(self.user)}"
        if self.resumed:
            yield f"completes an interrupted erasure of: {_listed(self.resumed)}"
        if self.taken:
            yield f"linked by a log-in, {verb} as well: {_listed(self.taken)}"
        if self.not_taken:
            yield f"linked by a log-in, not touched: {_listed(self.not_taken)}"
        if self.shoppers:
            yield f"log-ins say that this visitor is: {_listed(self.shoppers)}; not touched"
        yield f"rows of other shoppers touched: {self.holdings.others:,}"
        if self.holdings.unattributed:
            yield (
                f"{self.holdings.unattributed:,} refused rows mention the id, but cannot be read, "
                "so they may be another's (--unattributed removes them)"
            )
        if self.mentioned_in:
            yield (
                "the text is also in files without shoppers, where it may mean something else: "
                f"{_listed(self.mentioned_in)}"
            )
        yield from self.notes
        if self.is_removed:
            result = f"still in {_listed(self.left)}" if self.left else "the id is in none of them"
            yield f"searched {self.searched:,} files and keys: {result}"


def forget(
    settings: Settings,
    user: str,
    *,
    remove: bool = False,
    keep_linked: bool = False,
    also: Collection[str] = (),
    unattributed: bool = False,
) -> ErasureReport:
    """Name what belongs to a shopper below the data folder and in Redis; with `remove`, remove it.

    The anonymous visitors that log-ins link to the shopper alone are removed too. Safe to repeat; a
    crash leaves each file either as it was or without the person, and the next call goes on.

    Args:
        settings: where things are.
        user: the shopper's id.
        remove: whether to remove.
        keep_linked: leave the linked ids.
        also: linked ids to take along although they may be another's as well.
        unattributed: also remove refused rows that mention the id and cannot be read.

    Raises:
        NextbuyError: there is no such data folder, another run writes the tables, Redis is out of
            reach, or a row of another shopper would be touched.
    """
    if not user:
        raise NextbuyError("Name the shopper to forget: nextbuy forget USER")
    if not settings.data.is_dir():
        raise NextbuyError(f"There is no data folder {settings.data}. Name it: NEXTBUY_DATA")
    linked, shoppers = linked_ids(settings, user)
    if strangers := set(also) - {each.user_id for each in linked}:
        raise NextbuyError(
            f"No log-in links {_listed(sorted(strangers))} to {_shown(user)}. To remove another "
            "shopper, forget them by their own id."
        )
    taken = [
        each
        for each in linked
        if each.user_id in also or (each.is_theirs_alone and not keep_linked)
    ]
    report = ErasureReport(user, taken, [each for each in linked if each not in taken], shoppers)
    ids = {user, *(each.user_id for each in taken)}
    alone = sole_writer(settings, "nextbuy forget") if remove else nullcontext()
    with alone, running_redis(settings) as url, redis.Redis.from_url(url) as client:
        place = _Places(settings, client, unattributed)
        if remove:
            with copy_lock(settings), _journal(settings, ids) as everyone:
                report.resumed = sorted(everyone - ids)
                _remove(place, everyone, report)
        else:
            report.holdings = place.holdings(ids)
        report.mentioned_in = [] if not report.holdings.rows else _mentions(settings, ids)
    _add_notes(settings, report)
    return report


def _remove(place: "_Places", ids: Collection[str], report: ErasureReport) -> None:
    before = place.holdings(ids)
    if before.others:
        raise NextbuyError(
            f"{before.others:,} of the rows to remove are other shoppers'. Nothing was removed. "
            "This is a fault of Nextbuy; please report it."
        )
    report.holdings = place.holdings(ids, remove=True)
    report.is_removed = True
    for file in leftovers(place.settings.data):
        file.unlink(missing_ok=True)
    after = place.holdings(ids)
    report.searched = after.searched
    report.left = [*after.where, *place.traces(ids)]


class _Places:
    """All places of a data folder, counted or cleaned in one order."""

    def __init__(self, settings: Settings, client: redis.Redis, unattributed: bool) -> None:
        self.settings = settings
        self._client = client
        self._keys = erase_redis.ShopperKeys(settings, client)
        self._unattributed = unattributed

    def holdings(self, ids: Collection[str], *, remove: bool = False) -> Holdings:
        """What is there of these shoppers; with `remove`, it is gone afterwards."""
        result = Holdings()
        self._live(result, ids, remove)
        self._redis(result, ids, remove)
        self._files(result, ids, remove)
        return result

    def traces(self, ids: Collection[str]) -> Iterator[str]:
        """Files of the stores that hold an id's bytes though no row or key does."""
        for file in shop_files(self.settings.data):
            if file.place is None or not file.path.exists():
                continue
            if file.place.holds == "redis" and self._keys.are_in(file.path, ids):
                yield str(file.path)
        yield from erase_live.traces(self.settings, ids)

    def _live(self, result: Holdings, ids: Collection[str], remove: bool) -> None:
        if (self.settings.live / "events.sqlite").exists():
            result.searched += 1
            counts = erase_live.rows_in(self.settings, ids, remove=remove)
            result.add("live store", str(self.settings.live / "events.sqlite"), counts)

    def _redis(self, result: Holdings, ids: Collection[str], remove: bool) -> None:
        size = self._client.dbsize()
        assert isinstance(size, int)
        result.searched += size
        keys = self._keys.of(ids)
        if remove:
            erase_redis.delete(self._client, keys.theirs)
            if self.settings.redis_url is None:
                erase_redis.rewrite_files(self._client)
        result.unknown_keys += len(keys.unknown)
        for key in keys.theirs:
            result.add("Redis", f"Redis key {key!r}", RowCounts(1))
        result.others += keys.others

    def _files(self, result: Holdings, ids: Collection[str], remove: bool) -> None:
        for first, *others in _same_files(shop_files(self.settings.data)):
            try:
                inode = first.path.stat().st_ino
                counts = rows_in(first, ids, remove=remove, unattributed=self._unattributed)
                for other in others if remove and counts.theirs else ():
                    if other.path.stat().st_ino == inode:
                        _link(first.path, other.path, counts.theirs)
            except FileNotFoundError:  # of a version that was replaced meanwhile
                continue
            result.searched += 1 + len(others)
            result.add(_name(self.settings, first.path), str(first.path), counts)


def _same_files(files: Sequence[ShopFile]) -> list[list[ShopFile]]:
    """The files, those together that are links to one: a kept day is the same in all versions.

    All are looked at before any is replaced: the number of a file that is gone is used again.
    """
    groups: dict[object, list[ShopFile]] = {}
    for file in files:
        try:
            stat = file.path.stat()
        except FileNotFoundError:
            continue
        is_linked = stat.st_nlink > 1 and file.place and file.place.holds == "rows"
        key = (stat.st_dev, stat.st_ino) if is_linked else file.path
        groups.setdefault(key, []).append(file)
    return list(groups.values())


def _link(new: Path, file: Path, removed: int) -> None:
    """Let `file`, which was the same file as `new` before, be the same again."""
    with replacing(file, durable=True) as temporary:
        os.link(new, temporary)
    update_manifest(file, removed)


def _name(settings: Settings, file: Path) -> str:
    """What the report calls the place of a file."""
    parts = file.relative_to(settings.data).parts
    if ".versions" in parts:  # .versions/events-2/..., features/.versions/user-3/...
        at = parts.index(".versions")
        version = settings.data.joinpath(*parts[: at + 2])
        table = parts[at + 1].rpartition("-")[0]
        published = version.parents[1] / table
        return table if published.resolve() == version.resolve() else "older versions"
    return "materialized" if parts[:2] == ("live", "materialized") else parts[0]


def _mentions(settings: Settings, ids: Collection[str]) -> list[str]:
    """Files that have no columns of shoppers, or are not ours, and hold the text of an id."""
    files: list[ShopFile] = shop_files(settings.data)
    return [
        str(file.path.relative_to(settings.data))
        for file in files
        if (file.place is None or file.place.is_text) and text_is_in(file.path, ids)
    ]


def _add_notes(settings: Settings, report: ErasureReport) -> None:
    if report.holdings.unknown_keys:
        report.notes.append(
            f"{report.holdings.unknown_keys:,} packed rows in Redis end with the id, but belong to "
            "a view or a schema that the registry does not have: no one reads them here"
        )
    if settings.redis_url and report.is_removed:
        report.notes.append(
            f"Redis at {shown(settings.redis_url)} keeps files of its own, and perhaps replicas. "
            "Let it write them again: redis-cli -u REDIS_URL BGREWRITEAOF, then BGSAVE"
        )
    if others := [str(path.relative_to(settings.data)) for path in shops_below(settings.data)]:
        report.notes.append(
            f"other shops lie within this folder and were not touched: {_listed(others)}"
        )


@contextmanager
def _journal(settings: Settings, ids: Collection[str]) -> Iterator[set[str]]:
    """These ids and those of an interrupted erasure; kept on the disk until the block ends well."""
    file = settings.data / JOURNAL
    everyone = set(ids)
    if file.exists():
        everyone.update(json.loads(file.read_text()))
    write_text(file, json.dumps(sorted(everyone)), durable=True)
    yield everyone
    file.unlink()


def _shown(user: str) -> str:
    return user if user.isprintable() else repr(user)


def _listed(things: Collection[object]) -> str:
    texts = [_shown(str(each)) for each in things]
    more = f" and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more

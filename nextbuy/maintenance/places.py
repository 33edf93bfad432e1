"""What lies in a data folder, and in which of it a shopper's id can be.

Every kind of file that Nextbuy writes has a line here; `tests/nextbuy/test_places.py` compares the
lines with a folder that has been used. A file of another kind is not ours: it is named, never
changed. The columns are those that each schema declares beside itself.
"""

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

from nextbuy import events, prediction_log
from nextbuy.atomic import TEMPORARY
from nextbuy.ingest import quarantine
from nextbuy.shop import SHOP_FILE

Holds = Literal["rows", "refused", "samples", "document", "redis", "live", "text", "nothing"]
"""`rows`: Parquet with columns of shoppers; `refused`: the quarantine's; `samples`: check results
with a few example rows as JSON; `document`: JSON; `redis`: files of the embedded Redis; `live`: the
live store; `text`: no columns, such as a log or a model; `nothing`: no shopper can be there."""


class Place(NamedTuple):
    """A kind of file below the data folder."""

    pattern: str
    """Of the path below the data folder."""
    holds: Holds
    shopper_columns: tuple[str, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether it may hold an id as text, without saying what the text means."""
        return self.holds == "text"


_MADE_OF_EVENTS = events.SHOPPER_COLUMNS

PLACES = (
    Place(".versions/*/day=*/*.parquet", "rows", _MADE_OF_EVENTS),
    Place("features/.versions/*/day=*/*.parquet", "rows", _MADE_OF_EVENTS),
    Place("live/materialized/*/day=*/*.parquet", "rows", _MADE_OF_EVENTS),
    Place("raw/simulated/*.parquet", "rows", _MADE_OF_EVENTS),
    Place("datasets/*.parquet", "rows", _MADE_OF_EVENTS),
    Place("monitoring/*.parquet", "rows", _MADE_OF_EVENTS),
    Place("scores/*/*.parquet", "rows", _MADE_OF_EVENTS),
    Place("predictions/day=*/*.parquet", "rows", prediction_log.SHOPPER_COLUMNS),
    Place("quarantine/*/*.parquet", "refused", quarantine.SHOPPER_COLUMNS),
    Place("reports/checks/*.parquet", "samples"),
    Place("reports/*.parquet", "nothing"),  # numbers by day, week and feature
    Place("reports/*.json", "document"),
    Place("runs/*.json", "document"),
    Place("forgetting.json", "nothing"),  # an interrupted erasure; the next one removes it
    Place("live/events.sqlite*", "live"),
    Place("redis/*", "redis"),
    Place("*manifest.json", "nothing"),
    Place(".versions/*/summary.json", "nothing"),  # of a simulated shop
    Place("serving/*", "nothing"),
    Place("reports/*", "text"),  # pages and plots of sums over many
    Place("mlflow/*", "text"),
    Place("logs/*", "text"),
    Place("tmp/*", "nothing"),
    Place("live/*.lock", "nothing"),
    Place("*.lock", "nothing"),
    Place("registry.db", "nothing"),
    Place("tuning.db*", "nothing"),
    Place("tuned.yaml", "nothing"),
    Place("alerts.yaml", "nothing"),
    Place(SHOP_FILE, "nothing"),
)
"""The first line that fits a path counts. In a pattern `*` stands for folders too."""


class ShopFile(NamedTuple):
    """A file of this shop, and what it may hold."""

    path: Path
    place: Place | None
    """None: not a file of ours."""

    @property
    def shopper_columns(self) -> tuple[str, ...]:
        """Its columns that may hold a shopper's id."""
        return self.place.shopper_columns if self.place else ()


def shop_files(data: Path) -> list[ShopFile]:
    """Every file of the shop in this data folder, in order; other shops below it are left out.

    A published table is reached through its versions, not through its link.
    """
    return [ShopFile(path, place_of(path.relative_to(data))) for path in sorted(_walk(data))]


def place_of(path: Path) -> Place | None:
    """The line of `PLACES` for a path below the data folder."""
    name = path.as_posix()
    return next((place for place in PLACES if fnmatchcase(name, place.pattern)), None)


def is_shop(folder: Path) -> bool:
    """Whether a folder is a shop's data folder, of this version or an older one."""
    if (folder / SHOP_FILE).exists():
        return True
    return (folder / "live" / "events.sqlite").exists() or any(
        (folder / ".versions").glob("events-*")
    )


def shops_below(data: Path) -> list[Path]:
    """Data folders of other shops that lie within this one."""
    return sorted(Path(folder) for folder, _, _ in os.walk(data) if _is_other_shop(data, folder))


def leftovers(data: Path) -> list[Path]:
    """Half-written files whose process was killed."""
    return [
        path
        for path in sorted(_walk(data))
        if (match := TEMPORARY.fullmatch(path.name)) and not _is_running(int(match[1]))
    ]


def _walk(data: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(data, followlinks=False):
        folders[:] = [name for name in folders if not _is_other_shop(data, Path(folder) / name)]
        for name in names:
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                yield path


def _is_other_shop(data: Path, folder: str | Path) -> bool:
    path = Path(folder)
    return path != data and not path.name.startswith("day=") and is_shop(path)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

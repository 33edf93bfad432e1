"""MLflow's addresses follow their data folder.

MLflow stores the absolute address of each artifact: with an experiment, and copied from there into
its runs, models and versions. A data folder that was moved or copied would go on reading, and
writing, where it was made. So before our registry is opened, addresses below the place where the
folder was are turned into addresses below the place where it is.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from nextbuy.errors import NextbuyError
from nextbuy.sql import identifier

DATABASE = Path("mlflow", "mlflow.db")
ARTIFACTS = "/mlflow/artifacts"
"""Where our experiment's artifacts are, below the data folder."""
BUSY_SECONDS = 20  # as long as MLflow itself waits for another writer


def follow(data: Path) -> None:
    """Let the database of a data folder name the artifacts of this folder; nothing without one.

    All addresses change in one transaction, so another process sees the old ones or the new ones.

    Raises:
        NextbuyError: the artifacts were left behind where the folder was made.
    """
    database, home = data / DATABASE, data.as_uri()
    if not database.exists():
        return
    with closing(sqlite3.connect(database, BUSY_SECONDS)) as sql:
        try:
            elsewhere = _former_homes(sql) - {home}
        except sqlite3.OperationalError:
            raise  # locked, or the disk fails
        except sqlite3.DatabaseError:
            return  # it is damaged, which MLflow says
        if not elsewhere:
            return
        if not (data / ARTIFACTS[1:]).is_dir():
            raise NextbuyError(
                f"{database} was made in another folder, {min(elsewhere)}, and its artifacts are "
                f"not here. Copy {ARTIFACTS[1:]} too, or restore a backup: nextbuy restore FILE"
            )
        with sql:
            sql.execute("BEGIN IMMEDIATE")
            for old in sorted(elsewhere):
                _move(sql, old, home)


def _former_homes(sql: sqlite3.Connection) -> set[str]:
    """The data folders, as addresses, whose artifacts the experiments name."""
    if not sql.execute("SELECT 1 FROM sqlite_schema WHERE name = 'experiments'").fetchone():
        return set()
    rows = sql.execute("SELECT artifact_location FROM experiments").fetchall()
    addresses = [address for (address,) in rows if address]
    return {a.removesuffix(ARTIFACTS) for a in addresses if a.endswith(ARTIFACTS) and _is_file(a)}


def _is_file(address: str) -> bool:
    return address.startswith(("file://", "/"))


def _move(sql: sqlite3.Connection, old: str, new: str) -> None:
    """In every text column: which ones MLflow copies an address into changes with its version."""
    names = sql.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    for (table,) in names:
        columns = sql.execute(f"PRAGMA table_info({identifier(table)})").fetchall()
        for _, column, dtype, *_ in columns:
            if dtype.upper().startswith(("VARCHAR", "TEXT")):
                quoted = identifier(column)
                sql.execute(
                    f"UPDATE {identifier(table)} "
                    f"SET {quoted} = ?2 || substr({quoted}, length(?1) + 1) "
                    f"WHERE {quoted} = ?1 OR substr({quoted}, 1, length(?1) + 1) = ?1 || '/'",
                    (old, new),
                )

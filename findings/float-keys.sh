#!/usr/bin/env bash
# Guess: a join of integer keys with floating-point ones (what a left join in pandas makes of them)
#   compares the numbers exactly or is refused; at the least there is a warning where it cannot be.
# Seen: pandas and DuckDB turn the integers into floats, so 2^53 joins with 2^53 + 1 as well: one row
#   becomes two, without a word. Polars and Arrow refuse the types; SQLite compares exactly.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  duckdb==2.0.0 pandas==2.3.3 polars==2.1.0 pyarrow==25.0.1
"$folder/venv/bin/python" - <<'PY'
import sqlite3
import warnings

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa

print("duckdb", duckdb.__version__, "pandas", pd.__version__, "polars", pl.__version__,
      "pyarrow", pa.__version__, "sqlite", sqlite3.sqlite_version)
BIG = 2**53
CUSTOMERS = {"key": [BIG, BIG + 1], "name": ["the one", "another"]}
ORDERS = {"key": [float(BIG)]}
SQL = "SELECT name FROM orders JOIN customers ON orders.key = customers.key ORDER BY customers.key"


def by_pandas():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return pd.DataFrame(ORDERS).merge(pd.DataFrame(CUSTOMERS), on="key")["name"].tolist()


def by_duckdb():
    connection = duckdb.connect()
    connection.register("orders", pa.table(ORDERS))
    connection.register("customers", pa.table(CUSTOMERS))
    return [name for (name,) in connection.sql(SQL).fetchall()]


def by_sqlite():
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE orders (key REAL)")
    connection.execute("CREATE TABLE customers (key INTEGER, name TEXT)")
    connection.execute("INSERT INTO orders VALUES (?)", ORDERS["key"])
    connection.executemany("INSERT INTO customers VALUES (?, ?)", zip(*CUSTOMERS.values()))
    return [name for (name,) in connection.execute(SQL).fetchall()]


def by_polars():
    try:
        joined = pl.DataFrame(ORDERS).join(pl.DataFrame(CUSTOMERS), on="key")
    except pl.exceptions.SchemaError:
        return "refused"
    return joined["name"].to_list()


def by_arrow():
    try:
        joined = pa.table(ORDERS).join(pa.table(CUSTOMERS), "key")
    except pa.ArrowInvalid:
        return "refused"
    return joined["name"].to_pylist()


seen = {"pandas": by_pandas(), "DuckDB": by_duckdb(), "SQLite": by_sqlite(),
        "Polars": by_polars(), "Arrow": by_arrow()}
for library, names in seen.items():
    print(f"an order of customer 2^53 belongs, says {library}, to: {names}")
assert seen == {
    "pandas": ["the one", "another"],
    "DuckDB": ["the one", "another"],
    "SQLite": ["the one"],
    "Polars": "refused",
    "Arrow": "refused",
}, seen
PY

#!/usr/bin/env bash
# Guess: where several rows of the right side share the timestamp, an as-of join takes the last of
#   them in the order in which they lie, and always the same, as pandas and Polars do.
# Seen: DuckDB takes the first of three, one between of a hundred, and the last of five thousand: it
#   depends on how many rows there are. A point-in-time join over a table in which two rows of a key
#   share an event timestamp needs a tie-break of its own in the SQL.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  duckdb==2.0.0 pandas==2.3.3 polars==2.1.0 pyarrow==25.0.1
"$folder/venv/bin/python" - <<'PY'
import duckdb
import pandas as pd
import polars as pl

print("duckdb", duckdb.__version__, "pandas", pd.__version__, "polars", pl.__version__)


def chosen_by_duckdb(rows):
    con = duckdb.connect(config={"threads": 1})
    con.sql(f"CREATE TABLE asked AS SELECT 1 AS k, 11 AS t FROM range({rows})")
    con.sql(f"CREATE TABLE history AS SELECT 1 AS k, 10 AS t, i AS v FROM range({rows}) r(i)")
    query = "SELECT DISTINCT v FROM asked ASOF JOIN history ON asked.k = history.k AND asked.t >= history.t"
    return sorted(v for (v,) in con.sql(query).fetchall())


def chosen_by_pandas(rows):
    history = pd.DataFrame({"t": [10] * rows, "v": range(rows)})
    return pd.merge_asof(pd.DataFrame({"t": [11]}), history, on="t")["v"].tolist()


def chosen_by_polars(rows):
    history = pl.DataFrame({"t": [10] * rows, "v": list(range(rows))})
    return pl.DataFrame({"t": [11]}).join_asof(history, on="t")["v"].to_list()


seen = {}
for rows in (3, 100, 5000):
    seen[rows] = chosen_by_duckdb(rows)
    print(f"{rows} rows with one timestamp: DuckDB takes row {seen[rows]}, "
          f"pandas {chosen_by_pandas(rows)}, Polars {chosen_by_polars(rows)}")
    assert chosen_by_pandas(rows) == chosen_by_polars(rows) == [rows - 1]
assert seen == {3: [0], 100: [25], 5000: [4999]}, seen
PY

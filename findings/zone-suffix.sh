#!/usr/bin/env bash
# Guess: a log's "2024-07-01 12:00:00 EST", cast to a timestamp, is converted, or it is refused; and
#   what is no zone at all ("Mars/Base") is refused in any case.
# Seen: DuckDB's cast to TIMESTAMP drops whatever follows the time of day, in silence. Its cast to
#   TIMESTAMPTZ refuses an offset behind a blank, and reads CET as the region (two hours in July).
#   pandas drops abbreviations (it warns), also where UTC was asked for. Only Arrow refuses all of them.
#   A log with zones in its texts has to be read by rules of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  duckdb==2.0.0 pandas==2.3.3 pyarrow==25.0.1 pytz==2025.2
"$folder/venv/bin/python" -W ignore - <<'PY'
import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

print("duckdb", duckdb.__version__, "pandas", pd.__version__, "pyarrow", pa.__version__)
con = duckdb.connect()
con.execute("SET TimeZone = 'UTC'")


def by_duckdb(text, dtype):
    value = con.execute(f"SELECT TRY_CAST(? AS {dtype})::VARCHAR", [text]).fetchone()[0]
    return value and value[11:16]


def by_pandas(text):
    try:
        return f"{pd.to_datetime(text, utc=True):%H:%M}"
    except ValueError:
        return None


def by_arrow(text):
    try:
        return str(pc.cast(pa.array([text]), pa.timestamp("us"))[0])
    except pa.ArrowInvalid:
        return None


seen = {}
for suffix in ("EST", "CET", "+0500", "PM", "Mars/Base"):
    text = f"2024-07-01 12:00:00 {suffix}"
    seen[suffix] = (
        by_duckdb(text, "TIMESTAMP"), by_duckdb(text, "TIMESTAMPTZ"), by_pandas(text), by_arrow(text)
    )
    print(f"12:00:00 {suffix:<10}", dict(zip(("TIMESTAMP", "TIMESTAMPTZ", "pandas", "Arrow"), seen[suffix])))
assert seen == {
    "EST": ("12:00", "17:00", "12:00", None),
    "CET": ("12:00", "10:00", "12:00", None),
    "+0500": ("12:00", None, "07:00", None),
    "PM": ("12:00", None, "12:00", None),
    "Mars/Base": ("12:00", None, None, None),
}, seen
PY

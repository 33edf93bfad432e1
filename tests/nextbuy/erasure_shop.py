"""A shop with something of every shopper in every place, put there by hand.

It knows whose each thing is, so what must remain after an erasure is known without our code.
Shoppers, items, categories and shop sessions share their names.
"""

import json
import os
import random
import shutil
import sqlite3
from collections import Counter
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore

from monitoring.reports import CHECKS
from nextbuy.events import EVENT_SCHEMA
from nextbuy.live.event_store import COLUMNS, EventRow, LiveStore
from nextbuy.live.write_history import begin_batch, live_rows
from nextbuy.prediction_log import PREDICTION_SCHEMA
from nextbuy.stores.online.encoded_rows import rows_from_arrow
from nextbuy.stores.online.layout import redis_layout
from nextbuy.stores.online.redis_server import append_only, connect
from nextbuy.stores.online.writer import write
from tests.bento.small_shop import objects

AT = datetime(2024, 5, 1, 12, tzinfo=UTC)
AT_US = int(AT.timestamp()) * 1_000_000
MOMENT = pa.timestamp("us", tz="UTC")
KINDS = ("view", "scroll", "add_to_cart", "purchase")
NAMES = (
    "view", "purchase", "user_id", "item_id", "events", "null", "None", "true", "line", "nextbuy",
    "nb", "1", "10", "100", "0", "0001", "1.0", "u1", "U1", "u10", "u1 ", " u1", " ", "u1.smith",
    "u1@shop.example", "jo/u1", "u-1", "*", "?", "u?", "[u1]", "\\", "%", "_", "'", '"', "it's",
    "a,b", '{"user_id": "u1"}', '"user_id": "u1"', "[]", "$1", "^u1$", "ü", "u\u0308", "日本", "🙂",
    "\x01", "x\x00y", "x", "\n", "\t", "\x7f", "day=2024-05-01", "../u1", "u" * 256, "--yes",
)  # fmt: skip
"""Prefixes of each other, words of the schema, numbers, patterns, what SQL and JSON quote, control
characters."""
UNIQUE = "shopper-"
"""How ids begin that name nothing but a shopper: they can be searched for in bytes."""


class ErasureShop:
    """Fills a data folder; `remaining` says what is left of it without some shoppers."""

    def __init__(self, settings):
        self.settings = settings
        self._store = FeatureStore(repo_path=str(settings.feature_repo))
        self._store.apply(objects())
        self._views = {
            name: self._store.get_feature_view(name)
            for name in ("user", "item", "user_item", "recent_items")
        }
        self.client = connect(settings)
        self.things = {}
        """Place -> (owner, what it is) of everything that was put there."""

    def fill(self, shoppers, seed=0, names=NAMES):
        """Start over with these shoppers."""
        for path in self.settings.data.iterdir():
            if path.name not in ("redis", "registry.db"):
                is_folder = path.is_dir() and not path.is_symlink()
                shutil.rmtree(path) if is_folder else path.unlink()
        self.client.flushall()
        self.things = {}
        chance = random.Random(seed)
        pool = [*names, *(s for s in shoppers if not s.startswith(UNIQUE))]
        events = [
            {
                "event_id": f"e{number}-{chance.choice(pool)}"[:256],
                "user_id": shopper,
                "event_time": AT,
                "event_type": chance.choice(KINDS),
                "item_id": chance.choice(pool),
                "category": chance.choice([None, *pool]),
                "brand": chance.choice([None, *pool]),
                "price": chance.choice([None, 100, 1]),
                "discount": None,
                "source_session_id": chance.choice([None, *pool]),
            }
            for number, shopper in enumerate(shoppers * 3)
        ]
        self._tables(events, chance)
        self._refused(events, pool, chance)
        self._reports(events)
        self._live(events)
        self._redis(shoppers, pool, chance)

    def _put(self, place, owner, thing):
        self.things.setdefault(place, []).append((owner, thing))

    def _parquet(self, path, rows, schema=None, owner="user_id"):
        file = self.settings.data / path
        file.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, file, row_group_size=8)
        self.things[path] = [
            (row.get(owner), plain(read)) for row, read in zip(rows, table.to_pylist(), strict=True)
        ]

    def _same(self, path, link):
        """A second name of a file, as a kept day has."""
        (self.settings.data / link).parent.mkdir(parents=True)
        os.link(self.settings.data / path, self.settings.data / link)
        self.things[link] = self.things[path]

    def _tables(self, events, chance):
        day = "day=2024-05-01/part-0.parquet"
        self._parquet(f".versions/events-1/{day}", events, EVENT_SCHEMA)
        self._same(f".versions/events-1/{day}", f".versions/events-2/{day}")
        (self.settings.data / "events").symlink_to(".versions/events-2")
        manifest = {
            "inputs": "", "days": {"2024-05-01": "before"}, "rows": len(events),
            "info": {"source": "shop"},
        }  # fmt: skip
        (self.settings.data / ".versions/events-2/manifest.json").write_text(json.dumps(manifest))
        pairs = [
            {"user_id": e["user_id"], "item_id": e["item_id"], "event_timestamp": AT, "x": n * 0.5}
            for n, e in enumerate(events)
        ]
        pairs[0]["x"] = float("nan")
        for table in ("sessions-1", "labels-1", "truth-1"):
            self._parquet(f".versions/{table}/{day}", pairs)
        for table in ("user-1", "user_item-1", "recent_items-1"):
            self._parquet(f"features/.versions/{table}/{day}", pairs)
        items = [{"item_id": e["item_id"], "category": e["category"], "n": 1} for e in events]
        self._parquet(f"features/.versions/item-1/{day}", items)
        self._same(f"features/.versions/user-1/{day}", f"live/materialized/user-0a/{day}")
        self._parquet("raw/simulated/arrival=2024-05-01.parquet", events, EVENT_SCHEMA)
        self._parquet("datasets/0a.parquet", pairs)
        self._parquet("monitoring/scored-0a.parquet", pairs)
        self._parquet("scores/v1-0a/part-0000.parquet", pairs)
        logged = [
            {
                "request_id": f"r{chance.choice(NAMES)}",
                "predicted_at": AT,
                "read_at": None,
                "user_id": e["user_id"],
                "item_id": e["item_id"],
                "probability": 0.5,
                "rank": 1,
                "model": "nextbuy:v1",
                "is_shadow": False,
                "is_degraded": False,
                "has_reasons": False,
                "has_context": None,
                "vector": [1.0, float("nan")],
            }
            for e in events
        ]
        self._parquet("predictions/day=2024-05-01/7-0a-0.parquet", logged, PREDICTION_SCHEMA)

    def _refused(self, events, pool, chance):
        rows = [
            {
                "file": "log.csv",
                "row": n,
                "reason": "unparsable_price",
                "column": "price",
                "value": chance.choice(pool),
                "raw": json.dumps({"who": e["user_id"], "what": e["item_id"], "price": "x"}),
                "user_id": e["user_id"],
            }
            for n, e in enumerate(events)
        ]
        self._parquet("quarantine/shop-0a/rows.parquet", rows)
        older = [{k: v for k, v in row.items() if k != "user_id"} for row in rows]
        for row, e in zip(older, events, strict=True):
            event = {name: e[name] for name in EVENT_SCHEMA.names if name != "event_time"}
            row["raw"] = json.dumps(event)
        self._parquet("quarantine/shop-0b/rows.parquet", older)
        self.things["quarantine/shop-0b/rows.parquet"] = [
            (e["user_id"], thing)
            for e, (_, thing) in zip(
                events, self.things["quarantine/shop-0b/rows.parquet"], strict=True
            )
        ]
        for row, e in zip(older, events, strict=True):  # columns of `configs/sources/rees46.yaml`
            row["raw"] = json.dumps({"user_id": e["user_id"], "product_id": e["item_id"]})
        self._parquet("quarantine/rees46-0c/rows.parquet", older)
        self.things["quarantine/rees46-0c/rows.parquet"] = [
            (e["user_id"], thing)
            for e, (_, thing) in zip(
                events, self.things["quarantine/rees46-0c/rows.parquet"], strict=True
            )
        ]

    def _reports(self, events):
        samples = [{"user_id": e["user_id"], "item_id": e["item_id"]} for e in events]
        check = {"table": "events", "rule": "r", "rows": 1, "sample": json.dumps(samples)}
        file = self.settings.data / "reports/checks/20240501T120000000000-0a.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([check, check | {"sample": "[]"}], CHECKS), file)
        for sample in samples:
            self._put("sample", sample["user_id"], plain(sample))
            self._put("worst", sample["user_id"], plain(sample))
            self._put("run", sample["user_id"], plain(sample))
        parity = {"rows": 3, "worst": samples, "features": {"view": 1}}
        (self.settings.data / "reports/parity.json").write_text(json.dumps(parity))
        runs = self.settings.data / "runs"
        runs.mkdir()
        steps = [
            {"name": "view", "error": f"rule: 3. For example {json.dumps(s)}. Mend it"}
            for s in samples
        ]
        (runs / "2024-05-01.json").write_text(json.dumps({"steps": steps}))

    def _live(self, events):
        with LiveStore(self.settings) as store:
            rows = [
                EventRow._make(AT_US if n == "event_time" else e[n] for n in EVENT_SCHEMA.names)
                for e in events
            ]
            store.append(rows, AT_US)
            stale = [(shopper, 1) for shopper in sorted({e["user_id"] for e in events})]
            store.sql.executemany("INSERT INTO stale (user_id, since_us) VALUES (?, ?)", stale)
            store.sql.execute(
                f"INSERT INTO set_apart SELECT {', '.join(COLUMNS)}, seq, received_us, 'why', 1 "
                "FROM events WHERE seq % 2 = 0"
            )
            pairs = pa.Table.from_pylist(
                [{"user_id": e["user_id"], "item_id": e["item_id"], "n": 1} for e in events]
            )
            begin_batch(store, {"user_item": pairs}, AT_US)
            for table, column in (
                ("events", "user_id"), ("visits", "user_id"), ("set_apart", "user_id"),
                ("stale", "user_id"), ("items", None), ("batches", None),
            ):  # fmt: skip
                for row in _rows(store.sql, table):
                    self._put(f"live {table}", row.get(column), plain(row))
        for row in pairs.to_pylist():
            self._put("live rows", row["user_id"], plain(row))

    def _redis(self, shoppers, pool, chance):
        rows = {
            "user": [{"user_id": s, "n_sessions": 1, "n_carts": 2} for s in shoppers],
            "item": [{"item_id": i, "price": 1, "brand": chance.choice(pool)} for i in set(pool)],
            "user_item": [
                {"user_id": s, "item_id": i, "n_views": 1}
                for s in shoppers
                for i in {chance.choice(pool), chance.choice(pool)}
            ],
            "recent_items": [{"user_id": s, "item_ids": [chance.choice(pool)]} for s in shoppers],
        }
        config = self._store.config
        for view, of_view in rows.items():
            layout = redis_layout(config, self._views[view])
            for row in of_view:
                stamped = pa.Table.from_pylist([row]).append_column("at", pa.array([AT], MOMENT))
                before = set(self.client.keys())
                write(self.client, config, layout, [rows_from_arrow(config, layout, stamped, "at")])
                for key in set(self.client.keys()) - before:
                    of_nobody = key.startswith(b"nextbuy:")  # the clock, what prefixes stand for
                    self._put("redis", None if of_nobody else row.get("user_id"), key)
        # Another project's rows of the same shoppers, and another program's keys.
        for name in sorted(set(pool)):
            text = name.encode()
            for key in (
                b"\x01\0\0\0\x02\0\0\0\x07\0\0\0user_id\x02\0\0\0"
                + len(text).to_bytes(4, "little") + text + b"another",
                b"nb" + b"another" + text, b"sessions:" + text, text,
            ):  # fmt: skip
                self.client.set(key, text)
                self._put("redis", None, key)
        append_only(self.client)

    def remaining(self, gone=()):
        """Place -> what must be there without these shoppers."""
        return {
            place: Counter(str(thing) for owner, thing in things if owner not in gone)
            for place, things in self.things.items()
        }

    def contents(self):
        """Place -> what is there, read without our code."""
        data = self.settings.data
        result = {
            place: Counter(str(plain(row)) for row in pq.read_table(data / place).to_pylist())
            for place in self.things
            if place.endswith(".parquet")
        }
        file = next(data.glob("reports/checks/*.parquet"))
        samples = [
            s for text in pq.read_table(file)["sample"].to_pylist() for s in json.loads(text)
        ]
        result["sample"] = Counter(str(plain(s)) for s in samples)
        parity = json.loads((data / "reports/parity.json").read_text())
        result["worst"] = Counter(str(plain(row)) for row in parity["worst"])
        (run,) = data.glob("runs/*.json")
        errors = [step["error"] for step in json.loads(run.read_text())["steps"]]
        examples = [json.loads(e.split("example ")[1].removesuffix(". Mend it")) for e in errors]
        result["run"] = Counter(str(plain(row)) for row in examples if row is not None)
        with sqlite3.connect(data / "live/events.sqlite") as sql:
            for place in self.things:
                if place.startswith("live ") and place != "live rows":
                    rows = _rows(sql, place.removeprefix("live "))
                    result[place] = Counter(str(plain(row)) for row in rows)
        with LiveStore(self.settings) as store:
            kept = [row for part in live_rows(store, "user_item") for row in part.to_pylist()]
        names = ("user_id", "item_id", "n")
        result["live rows"] = Counter(str(plain({n: row[n] for n in names})) for row in kept)
        result["redis"] = Counter(str(key) for key in self.client.keys())  # noqa: SIM118
        return result


def plain(row):
    """A row that equals itself: NaN does not."""
    return {key: repr(value) for key, value in sorted(row.items())}


def _rows(sql, table):
    cursor = sql.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

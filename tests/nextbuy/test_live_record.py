"""The record that parity retrieves from keeps what a prediction of the last days may have seen."""

import pyarrow as pa

from nextbuy.live.event_store import LiveStore
from nextbuy.live.write_history import begin_batch, end_batch, live_rows, prune
from nextbuy.settings import Settings

ROWS = pa.table({"user_id": ["u1"], "n": [1]})


def written(store, at_us):
    end_batch(store, begin_batch(store, {"user": ROWS}, at_us), at_us + 1, {}, 0)


def loaded(store, folder, began_us):
    folder.mkdir(parents=True)
    row = ["user", str(folder), began_us, began_us, began_us + 1]
    store.sql.execute("INSERT INTO materialized VALUES (?, ?, ?, ?, ?)", row)


def moments(store):
    return [rows["created_us"][0].as_py() for rows in live_rows(store, "user")]


def test_only_what_was_absorbed_built_and_loaded_again_is_dropped(tmp_path):
    settings = Settings(data=tmp_path)
    folders = settings.live / "materialized"
    with LiveStore(settings) as store:
        loaded(store, folders / "a", 100)
        written(store, 200)
        store.set_meta("absorbed", [300])
        written(store, 400)
        loaded(store, folders / "b", 500)
        written(store, 600)
        loaded(store, folders / "c", 900)

        prune(store, 450)  # a prediction of that time may have seen the first load
        assert moments(store) == [200, 400, 600]
        assert {f.name for f in folders.iterdir()} == {"a", "b", "c"}

        prune(store, 700)
        # The second load holds what was absorbed before; row 400 may not be in it.
        assert moments(store) == [400, 600]
        assert {f.name for f in folders.iterdir()} == {"b", "c"}
        assert store.get_meta("comparable_us") == "700"

        prune(store, 700)
        assert moments(store) == [400, 600]

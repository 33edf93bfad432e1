from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from bento.prediction_writer import PredictionRecord, PredictionWriter
from nextbuy.prediction_log import (
    ORDER,
    PREDICTION_SCHEMA,
    prediction_parts,
    read_predictions,
)
from nextbuy.settings import Settings

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path):
    return Settings(data=tmp_path)


def scored(request="r1", items=("a", "b"), at=NOON, **changes):
    n = len(items)
    fields = {
        "request_id": request,
        "predicted_at": at,
        "user_id": "u1",
        "item_ids": list(items),
        "as_of": at,
        "states": ["open"] * n,
        "touched_at": [at] * n,
        "probabilities": np.linspace(0.9, 0.1, n),
        "ranks": np.arange(1, n + 1, dtype=np.int32),
        "model": "nextbuy:v1",
        "is_shadow": False,
        "is_degraded": False,
        "has_reasons": False,
        "read_at": at,
        "has_context": False,
        "matrix": np.arange(2 * n, dtype=np.float32).reshape(n, 2),
    }
    return PredictionRecord(**(fields | changes))


class Tally:
    def __init__(self):
        self.written = self.lost = 0

    def log(self, settings, max_rows=1000, seconds=3600):
        return PredictionWriter(settings, max_rows, seconds, self.on_written, self.on_lost)

    def on_written(self, rows):
        self.written += rows

    def on_lost(self, rows):
        self.lost += rows


def test_nothing_logged_is_an_empty_table(settings):
    assert read_predictions(settings).schema == PREDICTION_SCHEMA
    assert read_predictions(settings).num_rows == 0


def test_rows_come_back_as_they_were_put(settings):
    tally = Tally()
    log = tally.log(settings)
    vector = np.array([[1.5, np.nan], [2, 3]], np.float32)
    log.put(scored("r2", at=NOON + timedelta(seconds=1), matrix=vector, is_degraded=True))
    log.put(scored("r1", ("c",), has_reasons=True))
    log.close()
    rows = read_predictions(settings).to_pylist()
    assert [(r["request_id"], r["item_id"], r["rank"]) for r in rows] == [
        ("r1", "c", 1),
        ("r2", "a", 1),
        ("r2", "b", 2),
    ]
    np.testing.assert_array_equal([row["vector"] for row in rows[1:]], vector)
    assert [row["is_degraded"] for row in rows] == [False, True, True]
    assert [row["has_reasons"] for row in rows] == [True, False, False]
    assert (tally.written, tally.lost) == (3, 0)


def test_a_full_log_loses_and_counts_but_takes_what_fits(settings):
    tally = Tally()
    log = tally.log(settings, max_rows=5)
    log.put(scored("big", [f"i{n}" for n in range(6)]))
    assert tally.lost == 6
    log.put(scored("small"))
    log.close()
    log.put(scored("late"))
    assert (tally.written, tally.lost) == (2, 8)
    assert set(read_predictions(settings)["request_id"].to_pylist()) == {"small"}


def test_half_full_is_written_without_waiting_for_the_time(settings):
    tally = Tally()
    log = tally.log(settings, max_rows=4)
    for number in range(40):
        log.put(scored(f"r{number:02d}", ("a",)))
    log.close()
    assert tally.written + tally.lost == 40
    assert tally.written == read_predictions(settings).num_rows >= 4


def test_unwritable_folder_is_counted_as_loss_and_writing_resumes(settings):
    tally = Tally()
    settings.predictions.write_text("in the way")
    log = tally.log(settings, max_rows=4)
    log.put(scored("r1", ("a", "b")))
    while not tally.lost:
        pass
    settings.predictions.unlink()
    log.put(scored("r2"))
    log.close()
    assert (tally.written, tally.lost) == (2, 2)
    assert set(read_predictions(settings)["request_id"].to_pylist()) == {"r2"}


def test_files_lie_by_day_and_the_reader_takes_a_half_open_range(settings):
    log = Tally().log(settings)
    days = [NOON + timedelta(days=n) for n in range(3)]
    for number, day in enumerate(days):
        log.put(scored(f"r{number}", at=day))
    log.close()
    assert sorted(f.parent.name for f in settings.predictions.glob("*/*.parquet")) == [
        "day=2024-05-01",
        "day=2024-05-02",
        "day=2024-05-03",
    ]
    found = read_predictions(settings, days[1], days[2])
    assert set(found["request_id"].to_pylist()) == {"r1"}
    assert read_predictions(settings, end=days[1])["request_id"].to_pylist() == ["r0", "r0"]
    assert read_predictions(settings, start=days[2]).num_rows == 2


def test_the_log_comes_in_parts_and_without_what_is_not_asked_for(settings):
    for number in range(9):
        log = Tally().log(settings)
        log.put(scored(f"r{number}", at=NOON + timedelta(hours=2 * number)))
        log.close()
    whole = read_predictions(settings)
    parts = list(prediction_parts(settings, rows=4))
    assert len(parts) > 2
    assert pa.concat_tables(parts).sort_by([(name, "ascending") for name in ORDER]) == whole
    evening = NOON + timedelta(hours=9)
    [late] = prediction_parts(settings, start=evening)
    assert late.num_rows == whole.filter(pc.field("predicted_at") >= evening).num_rows == 8
    assert list(prediction_parts(settings, end=NOON)) == []
    assert read_predictions(settings, columns=["item_id", "rank"]) == whole.select(
        ["item_id", "rank"]
    )


def test_an_unfinished_file_is_not_read(settings):
    log = Tally().log(settings)
    log.put(scored())
    log.close()
    [file] = settings.predictions.glob("*/*.parquet")
    file.with_name(".torn.parquet").write_bytes(file.read_bytes()[:100])
    assert read_predictions(settings).num_rows == 2

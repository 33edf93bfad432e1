import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monitoring import reports
from monitoring.drift import DRIFT, feature_drift, page
from monitoring.run import monitor
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings


def window(shift, brands):
    rng = np.random.default_rng(3)
    return pa.table(
        {
            "user__n_views": rng.normal(10 + shift, 1, 2000),
            "user__spend": rng.normal(5, 1, 2000),
            "item__brand": rng.choice(brands, 2000),
            "item__price": pa.nulls(2000, pa.float64()),
        }
    )


def test_what_moved_is_found_and_what_stayed_is_not(tmp_path):
    settings = Settings(data=tmp_path)
    found = feature_drift(window(0, ["a", "b"]), window(2, ["a", "c"]), settings)
    drifted = {drift.feature: drift.is_drifted for drift in found}
    assert drifted == {"user__n_views": True, "item__brand": True, "user__spend": False}
    assert found == sorted(found, key=lambda drift: -drift.distance)
    kept = pq.read_table(reports.folder(settings, DRIFT))
    assert kept.num_rows == 3
    assert "<html" in page(settings).read_text()[:2000].lower()


def test_an_empty_window_is_said(tmp_path):
    whole = window(0, ["a"])
    with pytest.raises(NextbuyError, match="current window has no rows"):
        feature_drift(whole, whole.slice(0, 0), Settings(data=tmp_path))


def test_a_fresh_folder_is_never_a_green_light(tmp_path):
    report = monitor(Settings(data=tmp_path))
    assert report.exit_code == 1
    assert "nextbuy ingest" in str(report)
    assert "nextbuy train" in str(report)

"""Every page opens in a real browser on a fresh folder; after the demo: test_end_to_end.py."""

from pathlib import Path

import pytest

from tests.monitoring.browser import PAGES, chromium, dashboard, missing, opened

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def test_every_page_opens_on_a_fresh_folder(tmp_path: Path) -> None:
    with dashboard({"NEXTBUY_DATA": str(tmp_path)}) as url, chromium() as driver:
        for path, title in PAGES.items():
            text = opened(driver, url, path)
            assert title in text
            assert "nextbuy" in text, f"{title} does not tell what to run"

from pathlib import Path

import pytest

from nextbuy.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", memory_limit="1GB", threads=1)

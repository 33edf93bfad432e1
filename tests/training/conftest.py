import pytest

from nextbuy.settings import Settings


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Settings of an empty data folder, with a real MLflow store below it."""
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return Settings()

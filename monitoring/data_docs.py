"""Great Expectations' Data Docs: a page per table, made from a check on request."""

from collections.abc import Sequence
from pathlib import Path

from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
from great_expectations.render.view.view import DefaultJinjaPageView

from monitoring.checks import CheckReport
from nextbuy.settings import Settings


def write_docs(checked: Sequence[CheckReport], settings: Settings) -> Path:
    """Write `reports/data_docs/<table>.html` for each report; returns the folder."""
    folder = settings.reports / "data_docs"
    folder.mkdir(parents=True, exist_ok=True)
    renderer, view = ValidationResultsPageRenderer(), DefaultJinjaPageView()
    for report in checked:
        page = view.render(renderer.render(report.outcome))  # type: ignore[no-untyped-call]
        (folder / f"{report.table}.html").write_text(page)
    return folder

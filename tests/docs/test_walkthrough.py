"""docs/walkthrough.ipynb runs from top to bottom, and is stored without what came out."""

import nbformat
from nbclient import NotebookClient

from nextbuy.settings import PROJECT

NOTEBOOK = PROJECT / "docs" / "walkthrough.ipynb"


def test_it_is_stored_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs"), "clear all outputs before you save it"


def test_it_runs_from_top_to_bottom(shop, monkeypatch):
    folder, env = shop
    for name in ("BENTOML_HOME", "PATH"):
        monkeypatch.setenv(name, env[name])
    monkeypatch.setenv("NEXTBUY_DATA", str(folder / "walkthrough"))  # it begins with a new shop
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}})
    client.execute()
    said = "".join(
        output.get("text", "") or str(output.get("data", {}).get("text/plain", ""))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert "error:" not in said  # a verb that fails does not stop a cell
    assert "features, 0 differ" in said
    assert "contact everyone above" in said

"""The tutorial `docs/own-data.md`: it is a notebook, too, and every cell of it runs."""

import os
import sys
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext", reason="the extra `docs` is not installed")
nbformat = pytest.importorskip("nbformat")

PAGE = Path(__file__).parent.parent / "docs" / "own-data.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")
# The planted data are small.
FAST = {
    "RECSYS_ALS__MAX_ITER": "3",
    "RECSYS_CLUSTERS__K_MAX": "4",
    "RECSYS_EVALUATION__N_RESAMPLES": "100",
    "RECSYS_EVALUATION__SELECTED_RANKING_MODEL": "ease",
    "RECSYS_NEXT_IMPLICIT_ALS__MAX_ITER": "3",
    "RECSYS_IMPLICIT_ALS__MAX_ITER": "3",
    "RECSYS_SEGMENTS__N_SEGMENTS": "3",
}


def _made():
    """The page as a notebook without outputs."""
    notebook = jupytext.read(PAGE, fmt="md")
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return notebook


def test_the_notebook_is_the_page():
    """The notebook shows another tutorial than the page. After a change of the page: UPDATE_SNAPSHOTS=1."""
    if os.environ.get("UPDATE_SNAPSHOTS"):
        nbformat.write(_made(), NOTEBOOK)
    assert nbformat.read(NOTEBOOK, as_version=4) == nbformat.reads(nbformat.writes(_made()), as_version=4)


@pytest.mark.slow
def test_every_cell_of_the_tutorial_runs(tmp_path, monkeypatch):
    """Somebody spends half an hour and is left with an error in the middle."""
    from nbclient import NotebookClient

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert len((tmp_path / "mailing.txt").read_text().splitlines()) == 300
    shown = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    (lists,) = (outputs for source, outputs in shown.items() if "CREATE TABLE" in source)
    assert lists[-1]["data"]["text/plain"].count("film-") == 3
    (paired,) = (outputs for source, outputs in shown.items() if "result.improvements" in source)
    assert "shape: (1, 3)" in paired[-1]["data"]["text/plain"]
    (promotion,) = (outputs for source, outputs in shown.items() if "record.served" in source)
    assert promotion[0]["text"].startswith("promoted ease")

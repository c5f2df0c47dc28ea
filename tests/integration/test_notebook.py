"""The notebook of the documentation: it is stored without outputs, and runs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from places import ROOT

NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
LIMIT = 60
"""Seconds of one core, which the notebook promises."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert len(code) >= 5
    assert [cell for cell in code if cell.outputs or cell.execution_count] == []
    assert path.stat().st_size < 2**14


@pytest.mark.server
@pytest.mark.usefixtures("gl")
def test_the_first_hour_imagines_judges_and_finetunes(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "docs/tutorials/first-hour.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("import time\nprint('CPU', time.process_time())"))
    NotebookClient(notebook, timeout=10 * LIMIT, resources={"metadata": {"path": str(tmp_path)}}).execute()

    printed = "".join(text for cell in notebook.cells for text in _texts(cell))
    videos = [text for cell in notebook.cells for text in _pages(cell) if '<video src="data:video/mp4;base64,' in text]
    assert "(25, 64, 64, 3)" in printed
    assert "with probability" in printed
    assert "in 2 steps; real success" in printed
    assert "'step': 2, 'imagined_success'" in printed
    assert len(videos) == 2
    assert min(map(len, videos)) > 10_000
    assert float(printed.rpartition("CPU ")[2]) < LIMIT


def _texts(cell) -> list[str]:
    return [output.text for output in cell.get("outputs", []) if output.output_type == "stream"]


def _pages(cell) -> list[str]:
    return [output.data.get("text/html", "") for output in cell.get("outputs", []) if "data" in output]

"""Python of the documents that trains, with everything tiny."""

from pathlib import Path

import pytest
from documents import all_blocks, is_whole_method, run

from worldgymnast.recipes import reproduce as module
from worldgymnast.recipes.presets import debug
from worldgymnast.recipes.reproduce import Recipe

WHOLE = {block.place.partition(":")[0]: block for block in all_blocks(python=True) if is_whole_method(block)}


def test_the_documents_show_it() -> None:
    assert list(WHOLE) == ["README.md", "docs/architecture.md"]


@pytest.mark.usefixtures("gl", "one_process")
def test_the_method_runs_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(WHOLE["README.md"])
    assert (tmp_path / "runs" / "better.safetensors").exists()


def test_the_architecture_shows_the_preset_that_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """By tests/slow/test_debug_preset.py."""
    asked = []

    def reproduce(out: Path, recipe: Recipe) -> None:
        asked.append((out, recipe))

    monkeypatch.setattr(module, "reproduce", reproduce)
    run(WHOLE["docs/architecture.md"])
    assert asked == [(Path("runs/debug"), debug())]

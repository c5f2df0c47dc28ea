"""Python of the documents that trains, with everything tiny."""

from pathlib import Path

import pytest
from documents import Block, all_blocks, is_whole_method, run

WHOLE = [block for block in all_blocks(python=True) if is_whole_method(block)]


@pytest.mark.usefixtures("gl")
@pytest.mark.parametrize("block", WHOLE, ids=str)
def test_the_whole_method_runs_from_python(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(block)
    assert list((tmp_path / "runs").rglob("*.safetensors"))


def test_the_documents_show_it() -> None:
    assert [block.place.partition(":")[0] for block in WHOLE] == ["README.md", "docs/architecture.md"]

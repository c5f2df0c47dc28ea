"""Commands that describe judges made of judges: what is refused, and where members are looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worldgymnast.cli.main import main
from worldgymnast.judges.classifier import ClassifierConfig, SuccessClassifier
from worldgymnast.registry import Manifest, load_judge, save_component


@pytest.mark.parametrize("kind", [["x"], {"x": 1}, 3, None])
def test_a_description_of_no_kind_is_refused_and_what_was_to_name_it_is_not_written(
    kind: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd.json").write_text(json.dumps({"kind": kind}))
    odd, out = str(tmp_path / "odd.json"), tmp_path / "cascade.json"
    assert main(["judge", "cascade", odd, odd, "--out", str(out)]) == 2
    assert "field 'kind': found" in capsys.readouterr().err
    assert not out.exists()


def test_a_description_in_a_linked_folder_finds_its_members(tmp_path: Path) -> None:
    (tmp_path / "deep" / "down").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "down")
    member = tmp_path / "judge.safetensors"
    save_component(member, SuccessClassifier(ClassifierConfig(widths=(8, 8, 16))), Manifest())
    out = tmp_path / "link" / "cascade.json"
    assert main(["judge", "cascade", str(member), str(member), "--out", str(out)]) == 0
    load_judge(out)

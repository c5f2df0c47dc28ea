"""Names on the hub and the card of a component, without the hub."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from run_builders import seed_component

from worldgymnast.cli.main import main
from worldgymnast.errors import InputError
from worldgymnast.hub import fetch, upload
from worldgymnast.publishing import model_card
from worldgymnast.registry import Manifest, load_policy, save_component
from worldgymnast.weights import save_weights


def test_the_card_says_what_the_file_says(tmp_path: Path) -> None:
    policy = load_policy(seed_component(tmp_path))
    metrics = {"gap": 0.0625, "gap_low": -0.02, "gap_high": 0.15, "real_success": float("nan"), "mine_low": 1.0}
    origin = {"frame_size": [64, 48], "fps": 10, "instructions": ["open | close"]}
    manifest = Manifest("worldgymnast sft a|b", 3, "0bb3af", metrics, origin)
    file = tmp_path / "trained.safetensors"
    save_component(file, policy, manifest)
    card = model_card(file, "me/drawer-policy", "apache-2.0")
    front = yaml.safe_load(card.split("---")[1])
    assert front == {
        "library_name": "worldgymnast",
        "pipeline_tag": "robotics",
        "tags": ["worldgymnast", "robotics", "policy", "SmallVLA"],
        "license": "apache-2.0",
    }
    assert "\n# drawer-policy\n" in card
    count = sum(parameter.numel() for parameter in policy.state_dict().values())  # type: ignore[attr-defined]
    assert f"A policy of kind `SmallVLA` with {count:,} parameters" in card
    assert 'wg.load_policy("hf:me/drawer-policy")' in card
    for row in (r"| recipe | `worldgymnast sft a\|b` |", "| seed | `3` |", "| frame size | `64 x 48` |",
                r"| instructions | `open \| close` |", "| `gap` | 0.0625 | [-0.02, 0.15] | imagined minus real",
                "| `real_success` | unknown |", "| `mine_low` | 1 |"):  # fmt: skip
        assert row in card, row
    assert "`gap_low`" not in card
    assert re.search(r"SHA-256 .*`[0-9a-f]{64}`\n$", card)


def test_the_example_of_a_card_is_the_file_that_a_repository_has(tmp_path: Path) -> None:
    for stem in ("world", "judge"):
        card = model_card(Path("worldgymnast/starter") / f"{stem}.safetensors", "me/it")
        assert f'{stem} = wg.load_{stem}("hf:me/it")' in card
        assert "license" not in yaml.safe_load(card.split("---")[1])


@pytest.mark.parametrize("name", ["drawer", "", "me/", "/drawer", "a/b/c", "me/../x", "me/dra wer", "--x/y"])
def test_a_name_without_owner_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match="expected OWNER/NAME on the hub, such as me/drawer-policy"):
        fetch(Path(f"hf:{name}"))
    with pytest.raises(InputError, match="expected OWNER/NAME"):
        upload(name, {}, "x")


def test_a_revision_is_for_reading_only() -> None:
    with pytest.raises(InputError, match="found a revision"):
        upload("me/drawer@v1", {}, "x")


def test_what_cannot_be_pushed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_weights(tmp_path / "line.safetensors", load_policy(seed_component(tmp_path)).state_dict(), {"kind": "Line"})  # type: ignore[attr-defined]
    for words, expected in (
        (("line.safetensors", "me/x"), "found no policy, world model or judge of a known kind"),
        (("absent.safetensors", "me/x"), "absent.safetensors: "),
        (("policy.json", "me/x"), "expected a file that ends in .safetensors"),
        (("policy.safetensors", "me/x", "--dry-run", "--license", "My License"), "expected an identifier of the hub"),
    ):
        assert main(["push", str(tmp_path / words[0]), *words[1:]]) == 2
        said = capsys.readouterr().err
        assert expected in said
        assert said.count("\n") == 1

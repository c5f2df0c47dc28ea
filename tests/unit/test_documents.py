"""What README.md and docs/ show works: every command exists with these flags, and short Python runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pytest
from documents import Block, all_blocks, commands, is_whole_method, run

from worldgymnast.cli.commands import KINDS, Command
from worldgymnast.cli.main import main

SHOWN = [(str(block), words) for block in all_blocks(python=False) for words in commands(block.text)]
SCRIPT = """\
make quickstart
vllm serve Qwen/Qwen2.5-VL-7B-Instruct                 # or worldgymnast in a comment
worldgymnast record-policy P --seed 3 \\
    --out runs/held_out
torchrun --nproc-per-node 8 -m worldgymnast train-world bridge-600m D
for i in 0 1; do WHERE=x worldgymnast report runs/$i --seed $((i + 1)); done
pip install worldgymnast && worldgymnast adapt --instruction "open the drawer"
"""


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """The commands that were built from their flags, in the place of running them."""
    found: list[Command] = []
    for kind in set(KINDS.values()):
        monkeypatch.setattr(kind, "__call__", lambda self: found.append(self) or 0)
    return found


def test_commands_are_found_in_a_script() -> None:
    assert list(commands(SCRIPT)) == [
        ["record-policy", "P", "--seed", "3", "--out", "runs/held_out"],
        ["train-world", "bridge-600m", "D"],
        ["report", "runs/$i", "--seed", "1"],
        ["adapt", "--instruction", "open the drawer"],
    ]


def test_the_documents_show_many_commands() -> None:
    assert len(SHOWN) > 40
    assert {"README.md", "docs/how-to/judges.md"} <= {place.partition(":")[0] for place, _ in SHOWN}


@pytest.mark.parametrize(("place", "words"), SHOWN, ids=[f"{place} {' '.join(words)[:40]}" for place, words in SHOWN])
def test_a_command_that_is_shown_can_be_built(
    place: str, words: Sequence[str], built: list[Command], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(words)
    assert code == 0, f"{place}: worldgymnast {shlex.join(words)}\n{capsys.readouterr().err}"
    assert [type(command) for command in built] == [_kind(words)]


def _kind(words: Sequence[str]) -> type[Command]:
    return next(KINDS[name] for name in (" ".join(words[:2]), words[0]) if name in KINDS)


@pytest.mark.parametrize(
    "line",
    ["rl quickstart --rl.group-sise 4 --out RUN", "finetune quickstart", "report", "sft DATA --fit.steps 0 --out R"],
)
def test_a_command_that_is_wrong_is_refused(line: str, built: list[Command]) -> None:
    assert main(line.split()) == 2
    assert not built


@pytest.mark.parametrize("block", [each for each in all_blocks(python=True) if not is_whole_method(each)], ids=str)
def test_python_that_is_shown_runs(block: Block) -> None:
    run(block)

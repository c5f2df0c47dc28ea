"""`worldgymnast rl` end to end with an audited judge behind a real server; budget and resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from worldgymnast.cli.main import main
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.judges.vlm import VLMJudge
from worldgymnast.ledger import FILE, Budget, Ledger
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.recipes.presets import debug
from worldgymnast.registry import Manifest, load_judge, save_component, save_judge
from worldgymnast.weights import load_weights, weights_hash
from worldgymnast.worldmodel.sampler import LatentWorldModel

pytestmark = pytest.mark.usefixtures("gl")


@pytest.fixture(scope="module")
def words(vlm_server: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command without its judge and folder, on untrained components of the debug preset."""
    folder, recipe = tmp_path_factory.mktemp("parts"), debug()
    torch.manual_seed(0)
    spec = recipe.env.action_spec
    save_component(folder / "policy.safetensors", SmallVLA(recipe.policy.policy, spec), Manifest())
    save_component(folder / "world.safetensors", LatentWorldModel(recipe.world.world, spec, 80 / 6), Manifest())
    save_component(folder / "learned.safetensors", SuccessClassifier(recipe.judge.judge), Manifest())
    url, model = vlm_server
    made = ["judge", "vlm", model, "--endpoint.url", url, "--pixels", "0", "--frames", "3"]
    assert main([*made, "--out", str(folder / "vlm.json")]) == 0
    parts = [[f"--{name}", str(folder / f"{name}.safetensors")] for name in ("policy", "world")]
    few = ["--photographs", "1", "--rl.steps", "2", "--rl.evaluate-every", "2", "--threads", "1"]
    return ["rl", "debug", *parts[0], *parts[1], *few, "--audit", str(folder / "learned.safetensors")]


def judge_file(words: list[str]) -> Path:
    return Path(words[-1]).parent / "vlm.json"


def test_it_runs_and_what_it_asked_is_kept(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main([*words, "--judge", str(judge_file(words)), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["judge_error_rate"] for row in rows if "reward" in row] == [0, 0]
    spent = Ledger(out / FILE).total()
    assert 3 < spent.requests <= 3 + 2 * 2 * 4, "of clips that are alike only one is asked about"
    said = f"Remote judges: {spent.requests} requests, {spent.tokens} tokens."
    assert said in (out / "report.html").read_text()
    assert main([*words, "--judge", str(judge_file(words)), "--out", str(out)]) == 0
    assert Ledger(out / FILE).total() == spent, "a finished run asks nobody"


def test_a_folder_that_is_no_run_is_left_as_it_is(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    assert main([*words, "--judge", str(judge_file(words)), "--out", str(tmp_path / "data")]) == 2
    assert "found mine.txt but no config.json, expected an empty folder or a run" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine.txt"]


def test_a_run_out_of_budget_goes_on_to_where_it_would_have_come(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = load_judge(judge_file(words))
    assert isinstance(judge, VLMJudge)
    hashes, requests, most = set(), list[int](), 0
    for name in ("whole", "stopped"):
        most = requests[0] - 2 if requests else 0
        for budget in [None] if name == "whole" else [most, None]:
            limited = replace(judge.config.endpoint, budget=Budget(requests=budget))
            save_judge(tmp_path / "limited.json", replace(judge.config, endpoint=limited))
            asked = [*words, "--rl.ahead", "1", "--judge", str(tmp_path / "limited.json")]
            asked += ["--out", str(tmp_path / name)]
            assert main(asked) == (0 if budget is None else 2)
            if budget is not None:
                said = capsys.readouterr().err.splitlines()[-1]
                assert "Budget of" in said
                told = f'({most} of {most} requests). Answers so far are kept. Raise "budget" in the file that sets it'
                assert told in said
        requests.append(Ledger(tmp_path / name / FILE).total().requests)
        hashes.add(weights_hash(load_weights(tmp_path / name / "policy.safetensors")[0]))
    assert len(hashes) == 1
    assert requests[1] <= requests[0] + 3, "only the three questions of the look before the start are paid again"


def test_a_server_that_is_gone_is_one_line_before_a_rollout_is_spent(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = load_judge(judge_file(words))
    assert isinstance(judge, VLMJudge)
    gone = replace(judge.config.endpoint, url="http://127.0.0.1:9/v1", attempts=1)
    save_judge(tmp_path / "gone.json", replace(judge.config, endpoint=gone))
    out = tmp_path / "run"
    assert main([*words, "--judge", str(tmp_path / "gone.json"), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "http://127.0.0.1:9/v1: found no server (no connection: " in said
    assert said.count("\n") == 1
    assert not (out / "config.json").exists()

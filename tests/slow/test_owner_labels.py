"""An owner without labels: label, train, add the policy's recordings, and learn from them without a simulator."""

import json
from pathlib import Path

import foreign_data
import numpy as np
import pyarrow as pa
import pytest
from tiny_flags import BRIEF, TINY_JUDGE, TINY_POLICY, TINY_WORLD

from worldgymnast.cli.main import main
from worldgymnast.registry import load_policy
from worldgymnast.report.collect import collect
from worldgymnast.weights import identity

SENTENCES = ["pick the cube", "put it away"]


def arm(folder: Path, lens: tuple[int, ...], marks: bool, first: int = 0) -> Path:
    """A recording of a 6-joint arm at 30 Hz, labelled by `next.success` or not at all."""

    def extra(e: int, n: int) -> dict[str, pa.Array]:
        success = np.zeros(n, bool)
        success[-1] = e % 2 == 0
        return {"next.success": pa.array(success)} if marks else {}

    original = foreign_data.acts
    foreign_data.acts = lambda ep, n, d=6, seed=0: original(ep + first, n, d, seed)
    try:
        names = [f"joint_{i}.pos" for i in range(6)]
        tasks = [SENTENCES[i % 2] for i in range(len(lens))]
        foreign_data.v3(folder, lens=lens, d=6, fps=30, tasks=tasks, extra=extra, names=names)
    finally:
        foreign_data.acts = original
    return folder


def test_from_unlabelled_data_to_a_round_without_a_simulator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == code
        said = capsys.readouterr()
        return said.out if code == 0 else said.err

    mine, evals = (
        arm(tmp_path / "mine", (9, 12, 10, 14, 8, 11), False),
        arm(tmp_path / "evals", (9, 10, 8, 12), True, 20),
    )
    files = {name: tmp_path / name / f"{name}.safetensors" for name in ("policy", "world", "judge")}
    world, labels = ["--world", files["world"]], tmp_path / "mine.labels.jsonl"
    says("sft", mine, "--out", tmp_path / "policy", *BRIEF, *TINY_POLICY)
    said = says("train-world", mine, "--out", tmp_path / "world", *BRIEF, *TINY_WORLD)
    assert f"{mine}: 2 of 6 episodes are held out (a fifth of each task)" in said
    judge = ["train-judge", mine, *world, "--out", tmp_path / "judge", *BRIEF, *TINY_JUDGE]
    assert "worldgymnast label" in says(*judge, code=2), "the error says how to get labels"
    (tmp_path / "l.csv").write_text("episode,success\n0,yes\n1,no\n2,yes\n3,no\n")
    says("label", mine, "--csv", tmp_path / "l.csv", "--out", labels)
    said = says(*judge, "--labels", labels)
    assert f"{mine}: 2 of 4 labelled episodes succeeded" in said
    assert "2 have no label there" in said
    assert "4 labeled episodes, 2 successes: the judge's threshold is uncertain" in said
    said = says("eval-world", files["world"], "--data", mine, "--held-out", "auto", "--drift", 3, "--threads", 1)
    assert "2 of 6 episodes are held out" in said
    out, given = tmp_path / "round", [f"--{n}={path}" for n, path in files.items()]
    brief = ["--world.fit.steps", "1", "--judge.fit.steps", "1", "--judge.batch", "4", "--threads", "1"]
    rl = ["--finetune.rl.steps", "1", "--finetune.rl.starts", "2", "--finetune.rl.group-size", "2"]
    rl += ["--finetune.rl.execute", "2"]
    words = ["dyna", "--from", evals, "--data", mine, "--labels", labels, *given, "--out", out, *brief, *rl]
    assert "--budget: needs a real environment, which --from does without" in says(*words, "--budget", 500, code=2)
    said = says(*words)
    assert "Nothing was verified for real" in said
    assert f"both are kept, {out / 'before.safetensors'} and {out / 'rl-1' / 'policy.safetensors'}" in said
    before, after = (load_policy(out / name) for name in ("before.safetensors", "rl-1/policy.safetensors"))
    assert identity(before) == identity(load_policy(files["policy"]))
    assert after.action_spec.is_same_kind(before.action_spec)
    (decision,) = json.loads((out / "decisions.json").read_text())
    assert (decision["replaced"], decision["verified"]) == (False, False)
    assert any("Nothing was verified for real" in note for note in collect(out).notes)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    says(*words)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == written, "rerunning does nothing"

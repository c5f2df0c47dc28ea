"""Agreement over policies and tasks against numbers worked out by hand, and outcomes that are kept."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from worldgymnast.cli.main import main
from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.errors import InputError
from worldgymnast.evaluation.agreement import agreement, permutation_p, without_one
from worldgymnast.evaluation.success import Rate
from worldgymnast.measure.agreement import REAL, AgreeConfig, agreements, outcomes, rates, twins
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.recipes.presets import debug
from worldgymnast.recipes.quickstart import starter, starter_explorers
from worldgymnast.registry import load_policy
from worldgymnast.report.agree import Seen, scatter, sheets
from worldgymnast.surrogates.imagination import Imagination, Surrogate
from worldgymnast.types import Clip, Verdict
from worldgymnast.worldmodel.sampler import LatentWorldModel


def test_a_perfect_order_and_a_reversed_one() -> None:
    real = np.array([[0.0, 0.2], [0.4, 0.6], [0.8, 1.0]])
    same = agreement(real, real)
    assert (same.pearson.value, same.spearman.value, same.mmrv.value) == (pytest.approx(1), pytest.approx(1), 0)
    against = agreement(1 - real, real)
    assert against.pearson.value == pytest.approx(-1)
    assert against.mmrv.value == pytest.approx((0.8 + 0.4 + 0.8) / 3)  # each one's largest difference to another


def test_the_interval_knows_of_policies_and_of_tasks() -> None:
    """Where one task of four spoils the order, resampling the tasks must show it, however many policies there are."""
    rng = np.random.default_rng(0)
    real = np.repeat(rng.random((60, 1)), 4, axis=1)
    imagined = real.copy()
    imagined[:, 0] = 1 - 3 * real[:, 0]
    found = agreement(imagined, real, resamples=2000)
    assert found.pearson.low < -0.9
    assert found.pearson.high > 0.9
    certain = agreement(real + 0.02 * rng.standard_normal((60, 4)), real, resamples=2000)
    assert certain.pearson.low > 0.95


def test_what_is_not_comparable_is_refused_and_what_is_constant_unknown() -> None:
    with pytest.raises(ValueError, match="two equal"):
        agreement(np.zeros((3, 2)), np.zeros((2, 3)))
    assert np.isnan(agreement(np.zeros((3, 2)), np.random.default_rng(0).random((3, 2))).pearson.value)


def test_one_policy_can_make_a_correlation() -> None:
    imagined, real = np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.3, 0.2, 0.1, 0.9])
    assert np.corrcoef(imagined, real)[0, 1] > 0.85
    low, high = without_one(imagined, real)
    assert low == pytest.approx(-1)  # without the last one
    assert high == pytest.approx(np.corrcoef(imagined[[0, 1, 3]], real[[0, 1, 3]])[0, 1], abs=0.05)
    assert np.isnan(without_one(imagined[:3], real[:3])).all()


def test_the_permutation_p_is_exact_for_few_policies_and_uniform_without_correlation() -> None:
    line = np.arange(4.0)
    assert permutation_p(line, line) == pytest.approx(2 / 24)  # the order itself, and its reverse
    assert permutation_p(line, -line) == pytest.approx(2 / 24)
    assert np.isnan(permutation_p(line, np.ones(4)))
    rng = np.random.default_rng(0)
    found = [permutation_p(*rng.random((2, 10)), resamples=199) for _ in range(200)]
    assert 0.01 < np.mean(np.array(found) <= 0.1) < 0.19
    assert permutation_p(np.arange(12.0), np.arange(12.0) ** 2, resamples=999) <= 0.002


def test_policies_of_one_training_count_once() -> None:
    def played(*successes: bool) -> dict[str, list[dict[str, object]]]:
        rows = [{"task": "open", "layout": i, "success": [one]} for i, one in enumerate(successes)]
        return {REAL: rows, "world": rows}

    found = {"a-10": played(True, False), "a-20": played(True, True), "b": played(False, False), "c": played(True)}
    config, trainings = AgreeConfig(lengths=(8,)), {"a-10": "a", "a-20": "a", "b": "b", "c": "c"}
    np.testing.assert_allclose(rates(found, REAL, 0, trainings), [[0.75], [0.0], [1.0]])
    assert agreements(found, config, trainings)["world"][8].count == 3
    assert agreements(found, config)["world"][8].count == 4
    shown, *_ = sheets({"all": agreements(found, config, trainings)}, {n: Seen(Rate(1, 2), {}) for n in found}, 1)
    assert shown.rows[0][3] == "3"
    assert "SIMPLER" in shown.note


class Late:
    """A judge that calls every clip of more than two looks a success, and fails on those of one."""

    name, waits, identity = "late", False, "late"

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        return [Verdict(None, error="blind") if len(c.frames) < 3 else Verdict(float(len(c.frames) > 3)) for c in clips]


@pytest.mark.usefixtures("gl")
def test_outcomes_by_length_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    env = MetaWorldConfig(tasks=("drawer-close", "door-close"), horizon=6)
    policies = {name: SmallVLA(SmallVLAConfig(width=16, blocks=1, hidden=32), env.action_spec) for name in ("a", "b")}
    world = LatentWorldModel(debug().world.world, env.action_spec, 80 / 6).eval()
    config = AgreeConfig(env, per_task=1, lengths=(2, 4, 6), workers=1)
    places: dict[str, Surrogate] = {"world": Imagination.of(policies["a"], world, Late(), 6)}
    file = tmp_path / "outcomes.json"
    only = outcomes({"a": policies["a"]}, places, file, config)
    found = outcomes(policies, places, file, config)
    assert found["a"] == only["a"]
    assert [row["success"] for row in found["a"]["world"]] == [[None, False, True]] * 2
    assert np.isnan(rates(found, "world", 0)).all()
    np.testing.assert_array_equal(rates(found, "world", 2), np.ones((2, 2)))
    for rows in found.values():
        for row in rows[REAL]:
            assert row["success"] == sorted(row["success"]), "what has succeeded by 2 actions has by 4"
    written = file.stat().st_mtime_ns
    assert outcomes(policies, places, file, config) == found
    assert file.stat().st_mtime_ns == written
    with pytest.raises(InputError, match="multiples of the policies' chunk"):
        outcomes(policies, places, file, AgreeConfig(env, lengths=(3,)))
    seen = {name: Seen(Rate(1, 2), {"world": Rate(2, 2)}) for name in found}
    by_place = agreements(found, config)
    assert [sheet.title for sheet in sheets({"all 2": by_place}, seen, 2)] == ["Agreement with reality", "Success"]
    assert scatter(by_place, seen, seen).startswith(b"\x89PNG")


def test_the_same_weights_under_two_names_are_one_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = load_policy(starter("policy"))
    explorer, *_ = starter_explorers()
    assert twins({"a": policy, "b": load_policy(explorer), "c": policy, "d": policy}) == {"c": "a", "d": "a"}
    copy = tmp_path / "copy.safetensors"
    shutil.copy(starter("policy"), copy)
    files = [str(starter("policy")), str(explorer), str(copy)]
    assert main(["agree", *files, "--out", str(tmp_path / "run")]) == 2
    assert f"{copy}: found the weights of {starter('policy')}, expected every policy once" in capsys.readouterr().err


def test_one_policy_is_too_few(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["agree", "a.safetensors", "--out", str(tmp_path / "run")]) == 2
    assert "policies: found 1, expected at least 2, better 12 or more" in capsys.readouterr().err
    assert main(["agree", "a.safetensors", "a.safetensors", "--out", str(tmp_path / "run")]) == 2
    assert "found one twice" in capsys.readouterr().err
    words = ["--trainings", "one"]
    assert main(["agree", "a.safetensors", "b.safetensors", *words, "--out", str(tmp_path / "run")]) == 2
    assert "--trainings: found 1 words for 2 policies, expected one for each" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

"""`agree` as it is run: outcomes by length are kept, and what it refuses."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from worldgymnast.cli.main import main
from worldgymnast.envs.metaworld import MetaWorld, MetaWorldConfig
from worldgymnast.errors import InputError
from worldgymnast.evaluation.success import Rate
from worldgymnast.measure.agreement import (
    REAL,
    AgreeConfig,
    agreement_by_length,
    find_duplicates,
    imagine_more,
    powered_by_policy,
    roll_out_policies,
    success_rates,
)
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.recipes.presets import debug
from worldgymnast.recipes.quickstart import starter, starter_explorers
from worldgymnast.registry import load_policy
from worldgymnast.report.agree import PolicySuccess, agreement_sheets, scatter
from worldgymnast.report.powered import policies_sheet
from worldgymnast.surrogates.imagination import Imagination, Surrogate
from worldgymnast.types import Clip, Verdict
from worldgymnast.worldmodel.sampler import LatentWorldModel


class Late:
    """A judge that calls every clip of more than two looks a success, and fails on those of one."""

    name, is_remote, identity = "late", False, "late"

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        return [Verdict(None, error="blind") if len(c.frames) < 3 else Verdict(float(len(c.frames) > 3)) for c in clips]


@pytest.mark.usefixtures("gl")
def test_outcomes_by_length_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    env = MetaWorldConfig(tasks=("drawer-close", "door-close"), horizon=6)
    policies = {name: SmallVLA(SmallVLAConfig(width=16, blocks=1, hidden=32), env.action_spec) for name in ("a", "b")}
    world = LatentWorldModel(debug().world.world, env.action_spec, 80 / 6).eval()
    config, robot = AgreeConfig(per_task=1, lengths=(2, 4, 6), workers=1), MetaWorld(env)
    places: dict[str, Surrogate] = {"world": Imagination.of(policies["a"], world, Late(), 6)}
    file = tmp_path / "outcomes.json"
    only = roll_out_policies({"a": policies["a"]}, places, robot, file, config)
    found = roll_out_policies(policies, places, robot, file, config)
    assert found["a"] == only["a"]
    assert [row["success"] for row in found["a"]["world"]] == [[None, False, True]] * 2
    assert np.isnan(success_rates(found, "world", 0)).all()
    np.testing.assert_array_equal(success_rates(found, "world", 2), np.ones((2, 2)))
    for rows in found.values():
        for row in rows[REAL]:
            assert row["success"] == sorted(row["success"]), "what has succeeded by 2 actions has by 4"
    written = file.stat().st_mtime_ns
    assert roll_out_policies(policies, places, robot, file, config) == found
    assert file.stat().st_mtime_ns == written
    with pytest.raises(InputError, match="multiples of the policies' chunk"):
        roll_out_policies(policies, places, robot, file, AgreeConfig(lengths=(3,)))
    seen = {name: PolicySuccess(Rate(1, 2), {"world": Rate(2, 2)}) for name in found}
    by_place = agreement_by_length(found, config)
    assert [sheet.title for sheet in agreement_sheets({"all 2": by_place}, seen, 2)] == [
        "Agreement with reality",
        "Success",
    ]
    both = scatter(by_place, seen, seen)
    alone = scatter({"world": {4: by_place["world"][4]}}, seen, seen)
    sizes = [int.from_bytes(figure[16:20], "big") for figure in (both, alone)]
    assert sizes == [1408 * (1 + len(by_place)) // 2, 704], "a panel by length only if there are several"
    imagination = places["world"]
    assert isinstance(imagination, Imagination)
    more = imagine_more(policies, imagination, robot, file, config, 2)
    layouts = {row["layout"] for row in found["a"][REAL]}
    assert len(more["a"]) == 4, "two more layouts of two tasks"
    assert layouts.isdisjoint(row["layout"] for row in more["a"])
    assert imagine_more({"a": policies["a"]}, imagination, robot, file, config, 2) == more, "saved rows are kept"
    estimate = powered_by_policy(found, more, "world")["a"]
    assert (estimate.real, estimate.unplayed) == (2, 4)
    (first, _), *_ = [sheet.rows for sheet in [policies_sheet(powered_by_policy(found, {}, "world"))]]
    assert first[:1] + first[3:5] == ["a", "2", "0"]


def test_the_same_weights_under_two_names_are_one_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = load_policy(starter("policy"))
    explorer, *_ = starter_explorers()
    assert find_duplicates({"a": policy, "b": load_policy(explorer), "c": policy, "d": policy}) == {"c": "a", "d": "a"}
    copy = tmp_path / "copy.safetensors"
    shutil.copy(starter("policy"), copy)
    files = [str(starter("policy")), str(explorer), str(copy)]
    assert main(["agree", *files, "--out", str(tmp_path / "run")]) == 2
    assert f"{copy}: has the same weights as {starter('policy')}" in capsys.readouterr().err


def test_one_policy_is_too_few(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["agree", "a.safetensors", "--out", str(tmp_path / "run")]) == 2
    assert "POLICY: found 1, expected at least 2; 12 or more are recommended" in capsys.readouterr().err
    assert main(["agree", "a.safetensors", "a.safetensors", "--out", str(tmp_path / "run")]) == 2
    assert 'found "a.safetensors" twice' in capsys.readouterr().err
    words = ["--trainings", "one"]
    assert main(["agree", "a.safetensors", "b.safetensors", *words, "--out", str(tmp_path / "run")]) == 2
    assert "--trainings: found 1 words for 2 policies, expected one each" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

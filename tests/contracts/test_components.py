"""Every component keeps its contract, own ones and foreign ones; and the checks see what is broken."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import Bright, Dimmer, Light, Mine, MineConfig
from torch import Tensor

import worldgymnast as wg
from worldgymnast import kinds, registry
from worldgymnast.actions import metaworld_spec
from worldgymnast.envs.metaworld import MetaWorld, MetaWorldConfig
from worldgymnast.errors import InputError
from worldgymnast.policies.flow_vla import FlowVLA, FlowVLAConfig
from worldgymnast.testing import ContractError, check_environment, check_judge, check_policy, check_world
from worldgymnast.types import ActionChunk, Observation, Verdict
from worldgymnast.weights import identity

BRIEF = wg.ReinforceConfig(starts=4, group_size=4, rows=16, evaluate_every=2, save_every=1, resample=0, temperature=1.0)


@pytest.fixture
def mine() -> Mine:
    torch.manual_seed(0)
    return Mine()


@pytest.fixture
def known() -> Any:
    """The foreign policy's class, registered while a test runs."""
    registry.register("policies", Mine)
    yield
    kinds._REGISTERED["policies"].pop("Mine")


def test_own_components_keep_their_contracts() -> None:
    check_policy(wg.load_policy(wg.starter("policy")))
    check_policy(FlowVLA(FlowVLAConfig(), metaworld_spec(6)))
    check_world(wg.load_world(wg.starter("world")))
    check_judge(wg.load_judge(wg.starter("judge")))


@pytest.mark.usefixtures("gl", "one_process")
def test_metaworld_keeps_its_contract() -> None:
    check_environment(MetaWorld(MetaWorldConfig(tasks=("door-close", "drawer-close"))))


def test_foreign_components_keep_their_contracts(mine: Mine) -> None:
    check_policy(mine, frame_size=(12, 20))
    check_world(Dimmer())
    check_judge(Bright(), frame_size=(12, 20))
    check_environment(Light())


def finetuned(mine: Mine, out: Path, steps: int = 4, **more: Any) -> wg.Result:
    light = Light()
    return wg.finetune(
        mine, Dimmer(), Bright(), starts=wg.starts(light, per_task=4), steps=steps, horizon=8, out=out, config=BRIEF,
        scorer=wg.scorer(light, per_task=4), **more,
    )  # fmt: skip


def test_a_foreign_policy_is_trained_saved_and_loaded(mine: Mine, known: None, tmp_path: Path) -> None:
    before = identity(mine)
    result = finetuned(mine, tmp_path / "run")
    assert identity(mine) == before, "the caller's policy is not changed"
    assert isinstance(result.policy, Mine)
    loaded = wg.load_policy(tmp_path / "run" / "policy.safetensors")
    assert isinstance(loaded, Mine)
    assert identity(loaded) == identity(result.policy)
    assert identity(finetuned(mine, tmp_path / "run").policy) == identity(result.policy), "a finished run is read"
    evaluated = wg.evaluate({"before": mine, "after": result.policy}, Light(), per_task=4)
    assert [len(rows) for rows in evaluated.rows.values()] == [4, 4]
    assert result.report().exists()
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["inputs"]
    assert recorded["world"] == "dimmer"
    assert recorded["judge"] == "brighter than 128"
    assert recorded["policy"] == before


def test_a_policy_of_two_files_is_evaluated_once(
    mine: Mine, known: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy.deepcopy(mine)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    files = {name: tmp_path / f"{name}.safetensors" for name in ("start", "kept", "other")}
    for name, file in files.items():
        registry.save_component(file, other if name == "other" else mine, registry.Manifest())
    rows = wg.evaluate(files, Light(), per_task=4).rows
    assert rows["kept"] == [row | {"copied": True} for row in rows["start"]]
    assert not any("copied" in row for row in [*rows["start"], *rows["other"]])
    assert "kept: is the same policy as 'start', and is not evaluated again" in capsys.readouterr().out
    rows = wg.evaluate({"start": mine, "again": copy.deepcopy(mine)}, Light(), per_task=4).rows
    assert not any("copied" in row for row in rows["again"]), "objects may differ in more than their weights"


def test_an_unregistered_policy_is_trained_and_its_object_returned(mine: Mine, tmp_path: Path) -> None:
    result = finetuned(mine, tmp_path / "run", steps=2)
    again = finetuned(mine, tmp_path / "run", steps=2)
    assert identity(again.policy) == identity(result.policy)
    with pytest.raises(InputError, match=r"found .Mine., expected a policy .* or install or register its class"):
        wg.load_policy(tmp_path / "run" / "policy.safetensors")


def test_a_killed_run_of_foreign_components_ends_as_the_one_never_killed(mine: Mine, tmp_path: Path) -> None:
    whole = finetuned(mine, tmp_path / "whole")

    def dies(step: int, metrics: Any) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetuned(mine, tmp_path / "killed", on_metrics=dies)
    assert identity(finetuned(mine, tmp_path / "killed").policy) == identity(whole.policy)


def test_an_exchanged_foreign_component_is_refused(mine: Mine, tmp_path: Path) -> None:
    finetuned(mine, tmp_path / "run", steps=1)

    class Other(Dimmer):
        identity = "another dimmer"

    with pytest.raises(InputError, match="world"):
        wg.finetune(
            mine, Other(), Bright(), starts=wg.starts(Light(), per_task=4), steps=1, horizon=8, out=tmp_path / "run",
            config=BRIEF, scorer=wg.scorer(Light(), per_task=4),
        )  # fmt: skip


def test_what_has_no_identity_is_refused(mine: Mine, tmp_path: Path) -> None:
    class Anonymous(Bright):
        identity = ""

    with pytest.raises(InputError, match="Anonymous has no identity"):
        wg.finetune(
            mine, Dimmer(), Anonymous(), starts=wg.starts(Light(), per_task=2), steps=1, horizon=8, out=tmp_path
        )


def test_the_ratio_is_one_before_the_first_update_of_a_policy_with_one_number_a_chunk(
    mine: Mine, tmp_path: Path
) -> None:
    result = finetuned(mine, tmp_path / "run", steps=2)
    errors = [row["ratio_error"] for row in result.metrics if "ratio_error" in row]
    assert errors
    assert max(errors) < 1e-5


def test_without_a_scorer_the_last_step_is_kept_and_the_report_says_so(mine: Mine, tmp_path: Path) -> None:
    result = wg.finetune(
        mine, Dimmer(), Bright(), starts=wg.starts(Light(), per_task=4), steps=2, horizon=8, out=tmp_path / "run",
        config=BRIEF,
    )  # fmt: skip
    assert result.summary == {}
    assert "not scored for real" in str(result)
    assert "No real scoring" in result.report().read_text()


# ---------------------------------------------------------------- what is broken is seen


class Graded(Mine):
    act = Mine.act.__wrapped__  # pyright: ignore[reportFunctionMemberAccess] - with a gradient


class Shifted(Mine):
    def logprobs(self, obs: Observation, chunk: ActionChunk) -> Tensor:
        return super().logprobs(obs, chunk) + 0.1


class Deaf(Mine):
    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        return super().act(obs, temperature=temperature, generator=None)


class Frozen(Mine):
    def load_trainable(self, state: Any) -> None:
        """Forgets to."""


class Nameless(Mine):
    identity = "always the same"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Graded, "with a gradient"),
        (Shifted, "differs from the log-probabilities of act"),
        (Deaf, "with the same generator gives other actions"),
        (Frozen, "does not restore the policy"),
        (Nameless, "is unchanged after an update"),
    ],
)
def test_a_broken_policy_is_seen(kind: type[Mine], said: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ContractError, match=said):
        check_policy(kind(MineConfig()), frame_size=(12, 20))


def test_a_broken_world_is_seen() -> None:
    class Remembers(Dimmer):
        shown = 0

        def step(self, state: Any, actions: Tensor, *, generator: torch.Generator, every: int = 1) -> Any:
            self.shown += 1
            state, frames = super().step(state, actions, generator=generator, every=every)
            return state, (frames + self.shown).clamp(max=255).byte()

    class First(Dimmer):
        def step(self, state: Any, actions: Tensor, *, generator: torch.Generator, every: int = 1) -> Any:
            state, frames = super().step(state, actions, generator=generator, every=1)
            return state, frames[:, ::every]

    with pytest.raises(ContractError, match="same state and generator gives other frames"):
        check_world(Remembers())
    with pytest.raises(ContractError, match="does not give the last of the 4 frames"):
        check_world(First())


def test_a_broken_judge_is_seen() -> None:
    class Lost(Bright):
        def score(self, clips: Any) -> list[Verdict]:
            return super().score(clips)[:1]

    class Swaps(Bright):
        def score(self, clips: Any) -> list[Verdict]:
            return [Verdict(float(i == 0)) for i in range(len(clips))]

    class Beyond(Bright):
        def score(self, clips: Any) -> list[Verdict]:
            return [Verdict(1.0, success_frame=len(clip.frames)) for clip in clips]

    for judge, said in (
        (Lost(), "1 verdicts for 3 clips"),
        (Swaps(), "for another order"),
        (Beyond(), "gives frame 3"),
    ):
        with pytest.raises(ContractError, match=said):
            check_judge(judge, frame_size=(12, 20))


def test_a_broken_environment_is_seen() -> None:
    class Restless(Light):
        drawn = np.random.default_rng(0)

        def photograph(self, layouts: Any) -> Any:
            return [layout.start(self.drawn.integers(0, 255, (12, 20, 3), dtype=np.uint8)) for layout in layouts]

    class Same(Light):
        def layouts(self, per_task: int, first: int) -> Any:
            return super().layouts(1, first) * per_task

    with pytest.raises(ContractError, match="gives two frames for one layout"):
        check_environment(Restless())
    with pytest.raises(ContractError, match="layouts"):
        check_environment(Same())


def test_a_missing_member_is_named(mine: Mine) -> None:
    class Half:
        identity = "half"
        act: Callable[..., Any] = mine.act

    with pytest.raises(ContractError, match="Half has no action_spec, cameras, chunk, load_trainable"):
        check_policy(copy.copy(Half()))  # pyright: ignore[reportArgumentType]

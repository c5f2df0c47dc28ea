"""Recorded episodes imagined again with their policy acting: planted worlds and judges, known answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from lamp import SIZE, BrightJudge, Lamp, lamp_episode
from torch import Tensor

from worldgymnast.episodes.windows import EpisodeSet, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.evaluation.uncertainty import imagine_clips
from worldgymnast.measure.diagnosis import diagnose
from worldgymnast.measure.recorded import check_source, imagine_recorded
from worldgymnast.report.diagnosis import recorded_sheet, sentences
from worldgymnast.types import IMAGE, STATE, ActionChunk, Clip, Observation, Verdict

STEPS = 6


class Steady:
    """A foreign policy without torch modules: it makes the lamp brighter by 5 levels a step, whatever it sees."""

    action_spec, chunk, cameras, needs = Lamp().action_spec, 2, (IMAGE,), frozenset({IMAGE})

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.temperatures: list[tuple[float, int]] = []

    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        self.seen.append(obs.images[IMAGE].float().mean((1, 2, 3)))
        self.temperatures.append((temperature, len(obs.instruction)))
        actions = torch.zeros(len(obs.instruction), self.chunk, 4)
        actions[..., 0] = 0.5
        return ActionChunk(actions, actions, torch.zeros(actions.shape), temperature)


class Lenient(BrightJudge):
    """Calls a frame brighter than 113 a success."""

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        said = zip(super().score(clips), clips, strict=True)
        return [replace(v, score=float(c.frames[-1].mean() > 113)) for v, c in said]


class Silent(BrightJudge):
    """Fails on every clip."""

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        return [Verdict(None, error="outage") for _ in clips]


def recorded(count: int = 24, steps: Sequence[int] = (STEPS,), **fields: Any) -> EpisodeSet:
    """Rollouts of `Steady` in the true lamp, some of which end brighter than 128."""
    episodes = []
    for index in range(count):
        length = steps[index % len(steps)]
        actions = np.tile(np.float32([0.5, 0, 0, 0]), (length, 1))
        first = np.full((1, SIZE, SIZE, 3), 80 + index * 2, np.uint8)
        frames = imagine_clips(Lamp(), first, actions[None], 0)[0]
        bright = frames.mean((1, 2, 3)) > 128
        own = replace(lamp_episode(index, length), frames=frames, actions=actions, success=bright)
        episodes.append(replace(own, task=("low", "high")[index % 2], source="policy@0.5", **fields))
    return from_episodes(episodes)


def gap(world: Lamp, episodes: EpisodeSet, judge: BrightJudge | None = None, **options: Any) -> int:
    """Imagined minus recorded successes."""
    pairs = imagine_recorded(Steady(), world, judge or BrightJudge(), episodes, rows=7, **options)
    assert [pair.task for pair in pairs] == list(episodes.task)
    return sum(bool(pair.imagined) - pair.real for pair in pairs)


def diagnosed(world: Lamp, judge: BrightJudge, episodes: EpisodeSet) -> dict[str, Any]:
    pairs = imagine_recorded(Steady(), world, judge, episodes)
    return diagnose(world, judge, episodes) | {"recorded": {"policy": "steady", "pairs": [asdict(p) for p in pairs]}}


@pytest.mark.parametrize(("fades", "expected"), [(0.0, 0), (2.0, 6), (-2.0, -6)])
def test_a_world_that_is_optimistic_or_pessimistic_shows(fades: float, expected: int) -> None:
    assert gap(Lamp(fades), recorded()) == expected


def test_the_sentence_gives_the_judges_own_share() -> None:
    episodes = recorded(60)

    def said(world: Lamp, judge: BrightJudge) -> list[str]:
        return [text for text in sentences(diagnosed(world, judge, episodes)) if "true successes" not in text]

    (rate,) = said(Lamp(), BrightJudge())
    assert "imagined minus recorded +0 points" in rate
    assert rate.endswith("The outcome of 60 of 60 single episodes agrees.")
    rate, world = said(Lamp(4.0), BrightJudge())
    assert "The outcome of 50 of 60 single episodes agrees." in rate
    assert "World model and judge are optimistic in all tasks." in world
    assert "off by +0 points on real frames and +17 points on replays" in world
    assert "off by +13 points on real frames and +13 points on replays" in said(Lamp(), Lenient())[1]
    assert "pessimistic in all tasks" in said(Lamp(-4.0), BrightJudge())[1]


def test_a_task_is_named_where_the_mean_hides_it() -> None:
    rows = [{"task": task, "episode": i, "real": real, "imagined": not real, "error": None}
            for task, real in (("up", False), ("down", True)) for i in range(12)]  # fmt: skip
    verdict = {source: {"success": True} for source in ("real", "imagined")}
    found = {"recorded": {"policy": "p", "pairs": rows}, "rows": [{"success": row["real"], **verdict} for row in rows]}
    made = sentences(found | {"all": {"missed": {k: {"wrong": {"count": 0}} for k in ("own", "strict")}}})
    assert "imagined minus recorded +0 points" in made[0]
    assert "optimistic in 'up', pessimistic in 'down'" in made[1]


def test_the_table_has_a_row_per_task() -> None:
    sheet = recorded_sheet(diagnosed(Lamp(2.0), BrightJudge(), recorded())["recorded"])
    assert sheet.title == "Success of the policy steady, recorded and imagined"
    assert [row[0] for row in sheet.rows] == ["low", "high", "mean over tasks"]
    assert sheet.rows[-1][-1].startswith("+25 points")


def test_a_failure_gets_as_many_actions_as_were_recorded() -> None:
    assert gap(Lamp(), recorded(60, steps=(6, 2, 4))) == 0
    assert gap(Lamp(), recorded(60, steps=(6, 3, 5))) == 0, "cut to whole looks, the recorded outcome too"
    assert gap(Lamp(), recorded(60), horizon=3) == 0
    assert gap(Lamp(), recorded(60), execute=1, horizon=3) == 0


def test_temperatures_are_those_of_the_recording() -> None:
    policy, episodes = Steady(), recorded(4)
    mixed = from_episodes([replace(episodes.episode(i), source=f"policy@{i % 2:g}") for i in range(4)])
    imagine_recorded(policy, Lamp(), BrightJudge(), mixed)
    assert set(policy.temperatures) == {(0.0, 2), (1.0, 2)}
    imagine_recorded(policy, Lamp(), BrightJudge(), mixed, temperature=0.3)
    assert policy.temperatures[-1] == (0.3, 4)
    with pytest.raises(InputError, match="found episodes of expert, play, expected rollouts of the policy"):
        check_source(["policy@1", "play", "expert"])


def test_what_cannot_be_compared() -> None:
    episodes = recorded(4)
    plain = from_episodes([replace(episodes.episode(0), success=None), episodes.episode(1)])
    (pair,) = imagine_recorded(Steady(), Lamp(), Silent(), plain)
    assert (pair.episode, pair.imagined, pair.error) == (1, None, "outage")
    with pytest.raises(InputError, match="no episode has a success label"):
        imagine_recorded(Steady(), Lamp(), BrightJudge(), plain.select([0]))
    reader: Any = Steady()
    reader.needs = frozenset({IMAGE, STATE})
    with pytest.raises(InputError, match="the policy reads the robot's state, but the episodes have none"):
        imagine_recorded(reader, Lamp(), BrightJudge(), plain)


def test_the_policy_sees_what_the_world_imagines() -> None:
    policy = Steady()
    imagine_recorded(policy, Lamp(3.0), BrightJudge(), recorded(3))
    assert torch.allclose(policy.seen[1] - policy.seen[0], torch.full((3,), 16.0)), "two actions of 5 and 3 levels"

"""How fast this machine is: measured, and the policy left alone."""

from __future__ import annotations

import torch

from worldgymnast.envs.metaworld import MetaWorld
from worldgymnast.recipes.estimate import measure_pace
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import load_judge, load_policy, load_world
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.weights import identity


def test_a_machines_pace_is_measured_and_the_policy_left_alone() -> None:
    policy, world, judge = load_policy(starter("policy")), load_world(starter("world")), load_judge(starter("judge"))
    before, state = identity(policy), torch.random.get_rng_state()
    rl = ReinforceConfig(starts=1, group_size=4)
    found = measure_pace(policy, Imagination.of(policy, world, judge, rl.horizon), MetaWorld(), rl)
    assert all(0 < seconds < 5 for seconds in (found.imagined, found.learned, found.acted, found.laid_out))
    assert identity(policy) == before
    assert torch.equal(torch.random.get_rng_state(), state), "what is timed changes no draw"

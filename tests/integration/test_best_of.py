"""Best of N: the chunk is taken whose imagined future the judge believes in, else the likeliest one."""

from collections.abc import Sequence

import pytest
import torch

from worldgymnast.actions import metaworld_spec
from worldgymnast.errors import InputError
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.protocols import Policy
from worldgymnast.recipes.presets import debug
from worldgymnast.rl.best_of import BestOf, BestOfConfig
from worldgymnast.types import IMAGE, Clip, Observation, Verdict
from worldgymnast.worldmodel.sampler import LatentWorldModel

SPEC = metaworld_spec(6)


class Bright:
    """Believes in what is brighter at the end than the first frame was; keeps what it was shown."""

    name, is_remote, identity = "bright", False, "bright"

    def __init__(self, fail: bool = False):
        self.fail, self.clips = fail, list[Clip]()

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        self.clips += clips
        if self.fail:
            return [Verdict(None, error="out")] * len(clips)
        rise = [float(c.frames[-1].mean()) - float(c.frames[0].mean()) for c in clips]
        return [Verdict(float(r > 0), probability=0.5 + r / 512) for r in rise]


@pytest.fixture
def parts() -> tuple[SmallVLA, LatentWorldModel]:
    torch.manual_seed(0)
    world = LatentWorldModel(debug().world.world, SPEC, 80 / 6).eval()
    with torch.no_grad():
        for p in world.transformer.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return SmallVLA(SmallVLAConfig(width=16, blocks=1, hidden=32), SPEC), world


def obs() -> Observation:
    image = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Observation({IMAGE: image}, ["open the drawer", "close the door"], first={IMAGE: image.flip(0)})


def chunk_of(policy: Policy, seed: int = 0) -> torch.Tensor:
    return policy.act(obs(), temperature=0.0, generator=torch.Generator().manual_seed(seed)).sample


def test_it_takes_what_the_judge_believes_in(parts: tuple[SmallVLA, LatentWorldModel]) -> None:
    policy, world = parts
    judge = Bright()
    planned = BestOf(policy, world, judge, BestOfConfig(candidates=6, looks=2))
    chosen = planned.act(obs(), temperature=0.0, generator=torch.Generator().manual_seed(0))
    assert len(judge.clips) == 6 * 2
    for clip in judge.clips[::2]:
        assert clip.frames.shape == (4, 64, 64, 3), "first, present, and two looks of the future"
        assert (clip.frames[0] == obs().image[1].numpy()).all(), "the first frame is that of the episode"
        assert (clip.frames[1] == obs().image[0].numpy()).all()
    beliefs = torch.tensor([v.probability for v in Bright().score(judge.clips)]).unflatten(0, (6, 2))
    assert (beliefs.argmax(0) > 0).any(), "here the likeliest chunk is not the best one for every row"
    assert not torch.equal(chosen.sample, chunk_of(policy))
    again = BestOf(policy, world, Bright(), BestOfConfig(candidates=6, looks=2))
    repeated = again.act(obs(), temperature=0.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(repeated.sample, chosen.sample)
    assert policy.logprobs(obs(), chosen).shape == chosen.logprobs.shape


def test_where_the_judge_fails_it_acts_as_the_policy_does(parts: tuple[SmallVLA, LatentWorldModel]) -> None:
    policy, world = parts
    planned = BestOf(policy, world, Bright(fail=True), BestOfConfig(candidates=4, looks=1))
    assert torch.equal(chunk_of(planned), chunk_of(policy))
    alone = BestOf(policy, world, Bright(), BestOfConfig(candidates=1, looks=1))
    assert torch.equal(chunk_of(alone), chunk_of(policy))
    with pytest.raises(InputError, match="candidates"):
        BestOfConfig(candidates=0)

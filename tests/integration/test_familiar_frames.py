"""Frames unlike all that is known, from the real environment."""

from dataclasses import replace

import numpy as np
import pytest
from episode_builders import shared
from small_worlds import randomised

from worldgymnast.envs.metaworld import MetaWorld
from worldgymnast.episodes import formats
from worldgymnast.measure.novelty import frame_warning
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import load_world


@pytest.mark.usefixtures("gl")
def test_a_frame_unlike_all_that_is_known_is_told() -> None:
    world = load_world(starter("world"))
    known = MetaWorld().photograph(MetaWorld().layouts(2, 6_000_000))
    familiar = MetaWorld().photograph(MetaWorld().layouts(1, 6_500_000))
    assert frame_warning(world, familiar, known) == ""
    assert frame_warning(world, familiar, []) == "", "nothing is known, so nothing is strange"
    first = known[0].frame
    strange = [
        replace(known[0], frame=np.ascontiguousarray(frame))
        for frame in (first[::-1], np.full((64, 64, 3), 128, np.uint8), first[..., ::-1])
    ]
    for one in strange:
        assert frame_warning(world, [one], known).startswith("found a frame out of distribution for the world model")
    assert frame_warning(world, [*familiar, *strange], known).startswith("found 3 of 9 frames out of distribution")


@pytest.mark.usefixtures("gl")
def test_another_robot_s_scene_is_refused_by_an_untrained_world_too() -> None:
    """Its autoencoder reconstructs everything equally badly, so only the coarse pictures tell."""
    world = randomised()
    episodes = formats.read(shared("bridge_rlds"), size=64)
    bridge = [episodes.episode(e).start() for e in range(len(episodes))]
    metaworld = MetaWorld().photograph(MetaWorld().layouts(2, 4_000_000))
    for known, other in ((bridge[::2], metaworld), (metaworld[::2], bridge)):
        for one in other:
            assert "out of distribution" in frame_warning(world, [one], known)
    for known in (bridge, metaworld):
        for light in (0.6, 1.0, 1.3):
            lit = [replace(one, frame=(one.frame * light).clip(0, 255).astype(np.uint8)) for one in known[1::2]]
            assert "8x8" not in frame_warning(world, lit, known[::2])

"""Best-of-N at deployment: the policy proposes, the world model imagines, the judge picks. Nothing is trained.

At every look, the greedy chunk and some sampled ones are imagined, each continued greedily. The chunk whose future gets
the highest success probability from the judge is executed. V-GPS (arXiv 2410.13816) does the same with a value function
instead of a world model. The cost is imagination at every look; errors of world model and judge affect the choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import Between, Positive, checked
from worldgymnast.protocols import Actor, Judge, PredictsState, WorldModel, start_at, tiling_of
from worldgymnast.tiling import Tiling, see
from worldgymnast.types import IMAGE, ActionChunk, Clip, Observation


@checked
class BestOfConfig:
    """Amount of imagination per look.

    Attributes:
        candidates: number of candidate chunks, N, including the greedy one.
        looks: imagined looks per candidate, including its own chunk.
        temperature: of the sampled candidates.
    """

    candidates: Positive = 8
    looks: Positive = 6
    temperature: Annotated[float, Between(1e-3)] = 1.0


class BestOf:
    """An `Actor` that executes the best of several chunks of another actor.

    Args:
        policy: proposes chunks.
        world: imagines their futures.
        judge: picks by success probability; a failed judgment is never picked if there is another.
        config: number and length of the futures.
    """

    def __init__(self, policy: Actor, world: WorldModel, judge: Judge, config: BestOfConfig):
        self.policy, self.world, self.judge, self.config = policy, world, judge, config

    @property
    def action_spec(self) -> ActionSpec:
        """Action spec of the proposing policy."""
        return self.policy.action_spec

    @property
    def chunk(self) -> int:
        """Actions per look of the proposing policy."""
        return self.policy.chunk

    @property
    def cameras(self) -> Sequence[str]:
        """Cameras of the proposing policy."""
        return self.policy.cameras

    @property
    def needs(self) -> frozenset[str]:
        """Parts of an observation that the proposing policy needs."""
        return self.policy.needs

    @torch.no_grad()
    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        """Return the best of N chunks for every row of `obs`; in a tie, the first candidate.

        Args:
            obs: should contain the first image of the episode, for the judge to compare with.
            temperature: with 0 the first candidate is greedy; otherwise all are sampled.
            generator: of every draw.
        """
        generator = generator or torch.default_generator
        candidates: list[ActionChunk] = []
        if temperature == 0:
            candidates.append(self.policy.act(obs, temperature=0.0, generator=generator))
        while len(candidates) < self.config.candidates:
            candidates.append(self.policy.act(obs, temperature=self.config.temperature, generator=generator))
        chosen = torch.from_numpy(self._success_probabilities(obs, candidates, generator).argmax(0))

        best = [candidates[int(n)].map(lambda tensor, row=row: tensor[row : row + 1]) for row, n in enumerate(chosen)]
        return replace(ActionChunk.join(best, torch.cat), temperature=temperature)

    @property
    def _tiling(self) -> Tiling | None:
        return tiling_of(self.world)

    def _frame(self, images: Mapping[str, Tensor]) -> Tensor:
        """The world model's frame from the images of the policy's cameras, uint8 [b h w 3].

        Raises:
            InputError: the policy does not read all cameras of the frame.
        """
        if tuple(images) == (IMAGE,):
            return images[IMAGE]
        if self._tiling is None:
            return next(iter(images.values()))
        return self._tiling.tile(dict(images))

    def _success_probabilities(
        self, obs: Observation, candidates: Sequence[ActionChunk], generator: torch.Generator
    ) -> np.ndarray:
        """Judge the future of each of n chunks, float [n b]; -1 where the judge failed.

        All futures are imagined in parallel, n per row.
        """
        count, rows = len(candidates), len(obs)
        frame, world = self._frame(obs.images), self.world
        state = start_at(world, frame, obs.state)
        state = state.fork(torch.arange(rows).repeat(count))
        sentences = [*obs.instruction] * count
        proprioception = None if obs.state is None else obs.state.repeat(count, 1)
        actions = torch.cat([chunk.actions for chunk in candidates])
        first = frame if obs.first is None else self._frame(obs.first)
        images = [image.repeat(count, 1, 1, 1) for image in (first, frame)]
        for look in range(self.config.looks):
            if look:
                if proprioception is not None and isinstance(world, PredictsState) and world.state_dim:
                    proprioception = world.predict_state(state)
                newest = images[-1]
                seen = {IMAGE: newest} if self._tiling is None else see(newest, self.policy.cameras, self._tiling)
                ahead = Observation(seen, sentences, proprioception)
                actions = self.policy.act(ahead, temperature=0.0, generator=generator).actions
            state, frames = self.world.step(state, actions, generator=generator, every=actions.shape[1])
            images.append(frames[:, -1].to(frame.device))
        clips = torch.stack(images, 1).cpu().numpy()
        pairs = zip(clips, sentences, strict=True)
        verdicts = self.judge.score([Clip(clip, sentence, imagined=True) for clip, sentence in pairs])
        scores = [v.score if v.probability is None else v.probability for v in verdicts]
        return np.array([-1.0 if score is None else score for score in scores]).reshape(count, rows)

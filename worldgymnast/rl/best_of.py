"""Best-of-N at deployment: the policy proposes, the world model imagines, the judge picks; nothing is trained.

At every look the policy's likeliest chunk and some sampled ones are imagined, the policy going on greedily after each,
and the chunk whose future the judge believes in most is taken (as V-GPS, arXiv 2410.13816, does with a value function
instead of a world model). It costs imagination at every look, and it shares the faults of world and judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import Between, Positive, checked
from worldgymnast.protocols import Actor, Judge, WorldModel
from worldgymnast.types import ActionChunk, Clip, Observation


@checked
class BestOfConfig:
    """How much is imagined at a look.

    Attributes:
        candidates: chunks, N, the likeliest one included.
        looks: how far each is imagined, its own chunk included.
        temperature: of the sampled ones.
    """

    candidates: Positive = 8
    looks: Positive = 6
    temperature: Annotated[float, Between(1e-3)] = 1.0


class BestOf:
    """An `Actor` that acts as another does where the world says that it will go well.

    Args:
        policy: proposes.
        world: imagines.
        judge: picks by its belief; a failed judgement is never picked while there is another.
        config: how much.
    """

    def __init__(self, policy: Actor, world: WorldModel, judge: Judge, config: BestOfConfig):
        self.policy, self.world, self.judge, self.config = policy, world, judge, config

    @property
    def action_spec(self) -> ActionSpec:
        """The proposing policy's."""
        return self.policy.action_spec

    @property
    def chunk(self) -> int:
        """The proposing policy's."""
        return self.policy.chunk

    @property
    def cameras(self) -> Sequence[str]:
        """The proposing policy's."""
        return self.policy.cameras

    @property
    def needs(self) -> frozenset[str]:
        """What the proposing policy needs."""
        return self.policy.needs

    @torch.no_grad()
    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        """The best of `candidates` chunks for every row of `obs`; at equal belief the likeliest one.

        Args:
            obs: with the first image of the episode, which the judge compares with.
            temperature: 0 for the likeliest chunk among the candidates, above it they are all sampled.
            generator: of every draw.
        """
        draws = generator or torch.default_generator
        sampled = self.config.candidates - (temperature == 0)
        wide = [self.policy.act(obs, temperature=0.0, generator=draws)] if temperature == 0 else []
        wide += [self.policy.act(obs, temperature=self.config.temperature, generator=draws) for _ in range(sampled)]
        chosen = torch.from_numpy(self._beliefs(obs, wide, draws).argmax(0))

        best = [wide[int(n)].map(lambda tensor, row=row: tensor[row : row + 1]) for row, n in enumerate(chosen)]
        return replace(ActionChunk.join(best, torch.cat), temperature=temperature)

    def _beliefs(self, obs: Observation, wide: Sequence[ActionChunk], generator: torch.Generator) -> np.ndarray:
        """How much the judge believes in what follows each of n chunks, float [n b]; -1 where it failed.

        All futures are imagined side by side, n of each row.
        """
        count, rows = len(wide), len(obs)
        state = self.world.start(obs.image).fork(torch.arange(rows).repeat(count))
        words = [*obs.instruction] * count
        proprioception = None if obs.state is None else obs.state.repeat(count, 1)
        actions = torch.cat([chunk.actions for chunk in wide])
        first = obs.image if obs.first is None else next(iter(obs.first.values()))
        seen = [image.repeat(count, 1, 1, 1) for image in (first, obs.image)]
        for look in range(self.config.looks):
            if look:
                ahead = replace(Observation.of(seen[-1], words), state=proprioception)
                actions = self.policy.act(ahead, temperature=0.0, generator=generator).actions
            state, frames = self.world.step(state, actions, generator=generator, every=actions.shape[1])
            seen.append(frames[:, -1].to(obs.image.device))
        clips = torch.stack(seen, 1).cpu().numpy()
        verdicts = self.judge.score([Clip(clip, said, imagined=True) for clip, said in zip(clips, words, strict=True)])
        beliefs = [v.score if v.probability is None else v.probability for v in verdicts]
        return np.array([-1.0 if belief is None else belief for belief in beliefs]).reshape(count, rows)

"""Few-step imagination, distilled: a student that jumps to where its teacher would have walked.

Consistency distillation (Song et al. 2023, eq. 7) with guidance distilled in (Luo et al. 2023, latent consistency
models): from a frame's noisy latents the teacher takes one guided step of its walk, and the student must believe in the
same clean frame before and after it. What it believes after the step is its own answer, without gradient and without
averaging (Song and Dhariwal 2024). At the clean end the teacher's frame is the answer, and so from level to level the
student learns to see the end of the whole walk from its beginning; it can then be sampled in one step, or in any of the
teacher's. Both see the past as in sampling (`LatentWorldModel.believed`).

Two things beyond the papers, because a student acts on what it imagined itself: the past is shown to both slightly
corrupted, and what is true pulls beside what the teacher believes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from worldgymnast.types import Metrics
from worldgymnast.worldmodel.objective import toward, weighted_error
from worldgymnast.worldmodel.sampler import LatentWorldModel


class Consistency(nn.Module):
    """A student in training; its `loss` is that of `training.fit.fit`.

    Args:
        teacher: a world model that walks several steps.
        student: one of the same shape, to begin with of the same weights.
        truth: weight, 0..1, of the error to the true frame; the rest is that to the teacher's.
        corruption: largest standard deviation of the noise on the past, drawn uniformly a clip.
    """

    def __init__(
        self, teacher: LatentWorldModel, student: LatentWorldModel, truth: float = 0.0, corruption: float = 0.0
    ):
        super().__init__()
        self.truth, self.corruption = truth, corruption
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = student
        self.walk = torch.tensor(teacher.objective.walk(teacher.config.steps))

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """The squared difference of what the student believes before and after a step of the teacher.

        Args:
            batch: as of `LatentWorldModel.loss`.
        """
        student, generator = self.student, batch["generator"]
        clip = student.clip(batch)
        strength = self.corruption * torch.rand((len(clip.clean), 1, 1, 1, 1), generator=generator)
        disturbed = strength * torch.randn(clip.clean.shape, generator=generator)
        past = replace(clip, clean=clip.clean + disturbed.to(student.device))
        index = torch.randint(len(self.walk) - 1, clip.mask.shape, generator=generator)
        noise = torch.randn(clip.clean.shape, generator=generator).to(student.device)
        now, then = (self.walk[index + i].to(student.device) for i in (0, 1))
        before, after = ([x[:, :, None, None, None] for x in student.objective.at(level)] for level in (now, then))
        noisy = before[0] * clip.clean + before[1] * noise
        with torch.no_grad():
            guided = self.teacher.believed(past, noisy, now, self.teacher.config.guidance)
            stepped = toward(guided, noisy, (before[0], before[1]), (after[0], after[1]))
            target = torch.where(after[1] == 0, stepped, student.believed(past, stepped, then))
        found = student.believed(past, noisy, now)
        apart, wrong = (weighted_error(found, wanted, clip.weight, clip.mask) for wanted in (target, clip.clean))
        loss = (1 - self.truth) * apart + self.truth * wrong
        return loss, {"loss": float(loss.detach()), "apart": float(apart.detach()), "wrong": float(wrong.detach())}

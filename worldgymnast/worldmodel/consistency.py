"""Few-step imagination, distilled: a student that jumps to where its teacher would have walked.

Consistency distillation (Song et al. 2023, eq. 7) with guidance distilled in (Luo et al. 2023, latent consistency
models): from a frame's noisy latents the teacher takes one guided step of its walk, and the student must believe in the
same clean frame before and after it. What it believes after the step is its own answer, without gradient and without
averaging (Song and Dhariwal 2024). At the clean end the teacher's frame is the answer, and so from level to level the
student learns to see the end of the whole walk from its beginning; it can then be sampled in one step, or in any of the
teacher's. Both see the true past, as in sampling (`LatentWorldModel.believed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worldgymnast.types import Metrics
from worldgymnast.worldmodel.objective import toward, weighted_error
from worldgymnast.worldmodel.sampler import LatentWorldModel


class Consistency(nn.Module):
    """A student in training; its `loss` is that of `loops.supervised.fit`."""

    def __init__(self, teacher: LatentWorldModel, student: LatentWorldModel):
        super().__init__()
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
        index = torch.randint(len(self.walk) - 1, clip.mask.shape, generator=generator)
        noise = torch.randn(clip.clean.shape, generator=generator).to(student.device)
        now, then = (self.walk[index + i].to(student.device) for i in (0, 1))
        before, after = ([x[:, :, None, None, None] for x in student.objective.at(level)] for level in (now, then))
        noisy = before[0] * clip.clean + before[1] * noise
        with torch.no_grad():
            guided = self.teacher.believed(clip, noisy, now, self.teacher.config.guidance)
            stepped = toward(guided, noisy, (before[0], before[1]), (after[0], after[1]))
            target = torch.where(after[1] == 0, stepped, student.believed(clip, stepped, then))
        loss = weighted_error(student.believed(clip, noisy, now), target, clip.weight, clip.mask)
        first = clip.mask & (index == 0).to(clip.mask.device)
        truth = weighted_error(target, clip.clean, clip.weight, first)
        return loss, {"loss": float(loss.detach()), "target_error": float(truth)}

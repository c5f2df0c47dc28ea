"""Consistency distillation of a many-step world model into a few-step student.

Consistency distillation (Song et al. 2023, eq. 7) with guidance distilled in (latent consistency models, Luo et al.
2023): from noisy latents the teacher takes one guided denoising step, and the student must predict the same clean frame
before and after it. The target after the step is the student's own prediction, without gradient and without weight
averaging (Song and Dhariwal 2024). At the last level the target is the teacher's frame. The student can then be sampled
in one step, or in any of the teacher's. Both condition on earlier frames as in sampling
(`LatentWorldModel.predict_clean`).

Two additions to the papers, because a student conditions on its own frames: the earlier frames of both are slightly
corrupted, and the loss also contains the error to the true frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from worldgymnast.types import Metrics
from worldgymnast.worldmodel.objective import ddim_step, weighted_error
from worldgymnast.worldmodel.sampler import LatentWorldModel


class Consistency(nn.Module):
    """Teacher and student of a distillation; its `loss` is for `training.fit.fit`.

    Args:
        teacher: a world model that is sampled in several steps.
        student: a world model of the same architecture, initialized with the teacher's weights.
        truth: weight, 0..1, of the error to the true frame; the rest is the error to the teacher's.
        corruption: largest standard deviation of the noise on earlier frames; drawn uniformly per clip.
    """

    def __init__(
        self, teacher: LatentWorldModel, student: LatentWorldModel, truth: float = 0.0, corruption: float = 0.0
    ):
        super().__init__()
        self.truth, self.corruption = truth, corruption
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = student
        self.timesteps = torch.tensor(teacher.objective.timesteps(teacher.config.steps))

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Squared difference of the student's predictions before and after one step of the teacher.

        Args:
            batch: the batch of `LatentWorldModel.loss`.

        Returns:
            The loss, and the metrics "loss", "apart" (error to the target) and "wrong" (error to the true frame).
        """
        student, generator = self.student, batch["generator"]
        clips = student.training_clips(batch)
        strength = self.corruption * torch.rand((len(clips.clean), 1, 1, 1, 1), generator=generator)
        corruption = strength * torch.randn(clips.clean.shape, generator=generator)
        past = replace(clips, clean=clips.clean + corruption.to(student.device))
        index = torch.randint(len(self.timesteps) - 1, clips.mask.shape, generator=generator)
        noise = torch.randn(clips.clean.shape, generator=generator).to(student.device)
        level, next_level = (self.timesteps[index + i].to(student.device) for i in (0, 1))
        current, following = (
            [x[:, :, None, None, None] for x in student.objective.coefficients(each)] for each in (level, next_level)
        )
        noisy = current[0] * clips.clean + current[1] * noise
        with torch.no_grad():
            guided = self.teacher.predict_clean(past, noisy, level, self.teacher.config.guidance)
            stepped = ddim_step(guided, noisy, (current[0], current[1]), (following[0], following[1]))
            target = torch.where(following[1] == 0, stepped, student.predict_clean(past, stepped, next_level))
        prediction = student.predict_clean(past, noisy, level)
        to_target = weighted_error(prediction, target, clips.weight, clips.mask)
        to_truth = weighted_error(prediction, clips.clean, clips.weight, clips.mask)
        loss = (1 - self.truth) * to_target + self.truth * to_truth
        metrics = {"loss": loss, "apart": to_target, "wrong": to_truth}
        return loss, {name: float(value.detach()) for name, value in metrics.items()}

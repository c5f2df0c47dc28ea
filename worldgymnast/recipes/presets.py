"""Presets: functions that return a complete recipe. Flags tune values; presets exchange components or sizes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from worldgymnast.envs.libero import LiberoConfig
from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.errors import InputError
from worldgymnast.judges.classifier import ClassifierConfig
from worldgymnast.measure.real import ScoreConfig, ScoringConfig
from worldgymnast.policies.flow_vla import FlowVLAConfig
from worldgymnast.policies.small_vla import SmallVLAConfig
from worldgymnast.policies.tiny_smolvla import TinySmolVLAConfig
from worldgymnast.protocols import Policy
from worldgymnast.recipes.finetune import FinetuneConfig
from worldgymnast.recipes.quickstart import QuickstartConfig
from worldgymnast.recipes.record import PolicyRecordConfig, RecordConfig
from worldgymnast.recipes.relearn import RelearnConfig
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.rl.objective import ObjectiveConfig
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.update import TrainerConfig
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.judge import JudgeTraining
from worldgymnast.training.policy import PolicyTraining
from worldgymnast.training.world import EMBEDDED, WorldTraining
from worldgymnast.worldmodel.autoencoder import AutoencoderConfig
from worldgymnast.worldmodel.objective import DiffusionConfig
from worldgymnast.worldmodel.sampler import WorldModelConfig
from worldgymnast.worldmodel.transformer import TransformerConfig
from worldgymnast.worldmodel.vae import SD3, VAEConfig


def metaworld() -> Recipe:
    """Return the recipe of the six-task suite from scratch: up to four hours on two cores."""
    return Recipe()


def quickstart() -> Recipe:
    """Return `metaworld` with one RL seed and the evaluations of `make quickstart`."""
    short = QuickstartConfig()
    return replace(metaworld(), finetune=short.finetune, score=short.score, seeds=(short.finetune.rl.seed,))


def libero() -> Recipe:
    """Return the recipe of six tasks of LIBERO-Object from scratch: a day on two cores."""
    env = LiberoConfig(horizon=32)
    transformer = replace(EMBEDDED.transformer, action_dim=7)
    sizes = replace(EMBEDDED, transformer=transformer, state_dim=8, state_input=True)
    base, length = Recipe(), 40
    trainer = TrainerConfig(objective=ObjectiveConfig(kl=0.2))  # else what the world model underrates is forgotten
    rl = ReinforceConfig(horizon=env.horizon, evaluate_every=12, trainer=trainer)
    return replace(
        base,
        env=env,
        record=RecordConfig(expert=25, noisy=40, play=10, replayed=10, length=length),
        policy=PolicyTraining(
            SmallVLAConfig(chunk=1, state_dim=8), demonstrations=10, fit=FitConfig(steps=2000, lr=1e-3)
        ),
        rollouts=replace(base.rollouts, temperatures=(0.5, 1.0), per_temperature=15, length=length),
        held_out=replace(base.held_out, per_temperature=10, length=length),
        world=WorldTraining(sizes),
        judge=JudgeTraining(stride=1),
        explore=replace(base.explore, steps=14, horizon=env.horizon),
        explored=replace(base.explored, temperatures=(0.0, 0.5), per_temperature=12, length=env.horizon),
        planned=True,
        adapted=1200,
        finetune=FinetuneConfig(rl, ScoringConfig(per_task=12)),
        score=ScoreConfig(per_task=25),
    )


def libero_quickstart() -> QuickstartConfig:
    """Return six tasks of LIBERO-Object, a Franka Panda (extra `libero`)."""
    recipe = libero()
    return QuickstartConfig("libero", recipe.env, recipe.finetune, score=recipe.score)


def debug() -> Recipe:
    """Return a recipe with tiny sizes: a minute on a CPU, without meaningful numbers."""
    env = MetaWorldConfig(tasks=("drawer-open", "door-close"), horizon=8)
    short = FitConfig(steps=10, log_every=5, save_every=5)
    shorter = replace(short, steps=2)
    sizes = WorldModelConfig(
        AutoencoderConfig(channels=8, widths=(8, 16, 16), blocks=(1, 1, 1)),
        TransformerConfig(channels=8, grid=(8, 8), patch=2, width=64, layers=1, heads=2, window=4),
        EMBEDDED.objective,
        detail=EMBEDDED.detail,
        success_head=8,
    )
    world = WorldTraining(sizes, frames=8, autoencoder=short, clips=2, length=4, fit=short)
    judge = JudgeTraining(ClassifierConfig(widths=(8, 8, 16)), batch=8, fit=short, calibration=1, late=2)
    rl = ReinforceConfig(steps=2, starts=2, group_size=4, rows=8, horizon=8, evaluate_every=2)
    return Recipe(
        env=env,
        record=RecordConfig(expert=2, noisy=2, play=2, length=8, workers=1),
        policy=PolicyTraining(SmallVLAConfig(width=16, blocks=1, hidden=32), demonstrations=2, batch=8, fit=short),
        rollouts=PolicyRecordConfig((1.0,), 3, length=8, workers=1),
        held_out=PolicyRecordConfig((1.0,), 2, length=8, seed=3_000_000, workers=1),
        world=world,
        judge=judge,
        rounds=1,
        explorers=2,
        explore=replace(rl, steps=1, keep_best=False),
        explored=PolicyRecordConfig((1.0,), 1, length=8, seed=2_050_000, workers=1),
        again=RelearnConfig(0.5, replace(world, fit=shorter), replace(judge, fit=shorter)),
        adapted=2,
        finetune=FinetuneConfig(rl, ScoringConfig(per_task=1, workers=1)),
        seeds=(0,),
        score=ScoreConfig(per_task=2, workers=1),
    )


PRESETS: dict[str, Callable[[], Recipe]] = {f.__name__: f for f in (metaworld, quickstart, libero, debug)}


def metaworld_quickstart() -> QuickstartConfig:
    """Return six tasks of Meta-World, a Sawyer arm."""
    return QuickstartConfig()


QUICKSTARTS = {"metaworld": metaworld_quickstart, "libero": libero_quickstart}
"""Config of `worldgymnast quickstart` for each robot."""


# ---------------------------------------------------------------- world models by size


def embedded() -> WorldTraining:
    """Return 7M parameters on 64x64 frames: the default, small enough for a CPU."""
    return WorldTraining()


def bridge_25m() -> WorldTraining:
    """Return 25M parameters on 256x256 frames with WorldGym's actions: for larger pictures."""
    transformer = TransformerConfig(
        channels=32, grid=(16, 16), patch=2, width=320, layers=6, heads=4, window=8, action_dim=10
    )
    return WorldTraining(
        WorldModelConfig(transformer=transformer, detail=0.3),
        frames=8,
        autoencoder=FitConfig(steps=1400, lr=1.5e-3, weight_decay=0.0, ema=0.99),
        clips=4,
        length=12,
        fit=FitConfig(steps=1000, lr=1.2e-3, ema=0.99, save_every=100),
    )


def bridge_25m_diffusion() -> WorldTraining:
    """Return bridge-25m with the published objective: 20 context frames, 10 denoising steps a frame."""
    base = bridge_25m()
    transformer = replace(base.world.transformer, window=20, context=0, learned_positions=False)
    world = WorldModelConfig(
        transformer=transformer, objective=DiffusionConfig(), steps=10, guidance=3.0, slide="recompute", detail=0.3
    )
    return replace(base, world=world, clips=3, length=19, fit=replace(base.fit, lr=8e-4))


def bridge_150m() -> WorldTraining:
    """Return 150M parameters on latents of Stable Diffusion 3's image VAE, for one GPU."""
    transformer = TransformerConfig(
        channels=16, grid=(32, 32), patch=2, width=640, layers=10, heads=10, window=12, action_dim=10
    )
    return WorldTraining(
        WorldModelConfig(VAEConfig(SD3), transformer),
        clips=8,
        length=16,
        fit=FitConfig(steps=100_000, lr=3e-4, ema=0.999, weight_decay=0.02, save_every=1000),
    )


def bridge_600m() -> WorldTraining:
    """Return the published size and settings (WorldGym, arXiv 2506.00613), for several GPUs."""
    transformer = TransformerConfig(
        channels=16,
        grid=(32, 32),
        patch=2,
        width=1024,
        layers=16,
        heads=16,
        window=20,
        action_dim=10,
        context=0,
        learned_positions=False,
    )
    return WorldTraining(
        WorldModelConfig(VAEConfig(SD3), transformer, DiffusionConfig(), steps=10, guidance=3.0, slide="recompute"),
        clips=8,
        length=19,
        fit=FitConfig(steps=300_000, lr=5e-5, ema=0.999, weight_decay=0.02, save_every=1000),
    )


WORLDS: dict[str, Callable[[], WorldTraining]] = {
    f.__name__.replace("_", "-"): f for f in (embedded, bridge_25m, bridge_25m_diffusion, bridge_150m, bridge_600m)
}


# ---------------------------------------------------------------- policies by kind


def small_vla() -> PolicyTraining:
    """Return a small convolutional policy with discrete actions: the default, choose it first."""
    return PolicyTraining()


def flow_vla() -> PolicyTraining:
    """Return small-vla with continuous actions by flow matching: imitates better, RL did not improve it.

    See docs/results/flow-policy.md.
    """
    return PolicyTraining(FlowVLAConfig(), fit=FitConfig(steps=1200, lr=1e-3))


def tiny_smolvla() -> PolicyTraining:
    """Return SmolVLA with small sizes and random weights: to test that path, it hardly acts.

    See docs/results/small-smolvla.md.
    """
    return PolicyTraining(TinySmolVLAConfig(), demonstrations=20, fit=FitConfig(steps=6000, lr=1e-3))


POLICIES: dict[str, Callable[[], PolicyTraining]] = {
    f.__name__.replace("_", "-"): f for f in (small_vla, flow_vla, tiny_smolvla)
}


@dataclass(frozen=True)
class Finetuning:
    """Published settings with which policies of a kind are finetuned by imitation.

    Attributes:
        lr: learning rate.
        batch: looks per step.
        lora_lr: learning rate if only adapters are trained; None for `lr`.
    """

    lr: float
    batch: int
    lora_lr: float | None = None


FINETUNING: Mapping[str, Finetuning] = {
    "OpenVLA": Finetuning(2e-5, 8, 5e-4),
    "SmolVLA": Finetuning(1e-4, 64),
    "Pi0": Finetuning(2.5e-5, 32),
    "Pi05": Finetuning(2.5e-5, 32),
}
"""By class of policy: openvla's pretraining and openvla-oft's LoRA; lerobot's SmolVLA; openpi. Other classes are small,
and the defaults of `PolicyTraining` are theirs."""


def finetuning(config: PolicyTraining, policy: Policy, given_flags: Collection[str]) -> PolicyTraining:
    """Use the learning rate and the batch of the kind of policy that training begins with.

    Args:
        config: the training.
        policy: the policy.
        given_flags: flags of the user, whose values stay.
    """
    if (known := FINETUNING.get(type(policy).__name__)) is None:
        return config
    has_adapters = bool(getattr(getattr(policy, "config", None), "lora_rank", 0))
    lr = known.lora_lr if has_adapters and known.lora_lr else known.lr
    if "--fit.lr" not in given_flags:
        config = replace(config, fit=replace(config.fit, lr=lr))
    return config if "--batch" in given_flags else replace(config, batch=known.batch)


def preset(name: str) -> Recipe:
    """Return the recipe with that name.

    Raises:
        InputError: the name is unknown; the message suggests the closest one.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.5)
        suggestion = f"; did you mean '{near[0]}'?" if near else ""
        raise InputError(f"preset: found '{name}', expected one of {', '.join(PRESETS)}{suggestion}")
    return PRESETS[name]()

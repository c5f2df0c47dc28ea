"""The commands that train on data sets: sft, train-world, distill, train-judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro
from torch import nn

from worldgymnast.actions import BRIDGE, WORLDGYM, require_same
from worldgymnast.cli.checks import (
    check_frame_size,
    check_instructions,
    check_same_actions,
    check_same_rate,
    require_labels,
)
from worldgymnast.cli.command import NO_PREFIX, Command, HeldOut, OptionalPath, TrainingCommand, print_written
from worldgymnast.cli.continuing import with_given_flags
from worldgymnast.cli.data_defaults import (
    RATE,
    fit_judge,
    fit_policy,
    fit_world,
    require_within_episodes,
    size_for,
    use_state,
)
from worldgymnast.cli.inputs import check_one_state, held_out_or_default, hold_out_each, read, read_each, state_for
from worldgymnast.cli.memory_plan import advise_sft, check_memory, plan_sft
from worldgymnast.cli.origins import (
    cameras_of,
    check_same_cameras,
    check_same_state,
    held_out_keys,
    held_out_of,
    origin,
    rule_of,
    size_of,
)
from worldgymnast.cli.starters import refuse_starters
from worldgymnast.configs import Positive, checked
from worldgymnast.episodes.shares import check_shares
from worldgymnast.episodes.windows import EpisodeSet, concatenate, warn_out_of_range
from worldgymnast.errors import InputError
from worldgymnast.preprocessing import compact
from worldgymnast.protocols import AddsState, Policy, WorldModel, predicts_state
from worldgymnast.recipes.presets import POLICIES, WORLDS, finetuning
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import (
    WorldConfig,
    load_learned_judge,
    load_policy,
    load_trainable_world,
    load_world,
    self_test,
)
from worldgymnast.run import is_finished
from worldgymnast.tiling import check_cameras
from worldgymnast.training.distillation import Distillation, distill
from worldgymnast.training.fit import check_parts
from worldgymnast.training.judge import JudgeTraining, train_judge
from worldgymnast.training.policy import IMAGINED_LENGTH, PolicyTraining, train_policy
from worldgymnast.training.world import WorldTraining, train_world
from worldgymnast.types import STATE
from worldgymnast.worldmodel.autoencoder import Autoencoder
from worldgymnast.worldmodel.vae import ImageVAE, VAEConfig

_SPECS = {"bridge": BRIDGE, "worldgym": WORLDGYM}
_OF_THE_ROBOT = {"state_dim", "state_input"}
_OF_THE_WEIGHTS = {"autoencoder", "transformer", "success_head", *_OF_THE_ROBOT}
"""Fields of a world model that its trained weights depend on."""


@checked(kw_only=True)
class Sft(TrainingCommand):
    """Train a policy by imitating the first expert episodes of each task.

    If no episode is marked as an expert's, all episodes not labelled as failures are imitated.

    Attributes:
        config: the training.
        begin_with: policy file or description (policy.json) to continue training from; it keeps its architecture.
            The defaults of --fit.lr and --batch are the published ones of its kind.
        state: also give the policy the robot's state (proprioception). Then it needs a world model that predicts it
            (train-world --state). With --begin-with it is added to the inputs, at first without effect.
        imagined_in: world-model file. The demonstrations are imagined again in it, and imitated too. Then the policy
            acts on imagined pictures as on real ones.
        imagined_length: with --imagined-in, most actions to imagine from one recorded frame: as many as RL will. Longer
            demonstrations are imagined in pieces.
        over_memory: begin although the memory plan does not fit in the device.
    """

    sizes: ClassVar[Mapping[str, Callable[[], PolicyTraining]]] = POLICIES
    config: Annotated[PolicyTraining, NO_PREFIX] = PolicyTraining()
    begin_with: OptionalPath = None
    state: bool = False
    imagined_in: OptionalPath = None
    imagined_length: Positive = IMAGINED_LENGTH
    over_memory: bool = False

    @classmethod
    def from_size(cls, size: str) -> Command:
        """See `Command.from_size`."""
        return cls(config=POLICIES[size](), data=(), out=Path("runs") / f"sft-{size}")

    def __call__(self) -> int:
        """Train the policy."""
        self.prepare(self.out)
        check_parts(self.config)
        start = load_policy(self.begin_with, is_tested=False) if self.begin_with else None
        if start and self.begin_with:
            self._check_kind(start)
            own: Any = getattr(start, "config", None)
            with_given_flags(own, self.config.policy, "--policy.", self.given_flags, "all", self.begin_with)
        if "--imagined-length" in self.given_flags and not self.imagined_in:
            raise InputError("--imagined-length: found without --imagined-in, the world model to imagine in. Add it")
        world = load_world(self.imagined_in, self.device) if self.imagined_in else None
        check_same_cameras(self.begin_with, self.imagined_in, requested=self.image_key)
        rule = rule_of(self.begin_with, self.imagined_in, requested=self.resize)
        cameras = self.cameras or cameras_of(self.begin_with) or cameras_of(self.imagined_in)
        wanted = self.size or size_of(self.begin_with) or (compact(world.frame_size) if world else None)
        size = size_for(self.data, wanted, cameras)
        reads_state = self.state or (STATE in start.needs if start else self.config.policy.state_dim > 0)
        is_added = start is not None and reads_state and STATE not in start.needs
        if is_added and not isinstance(start, AddsState):
            raise InputError(
                f"--state: {self.begin_with} does not read the state, and a {type(start).__name__} keeps its inputs. "
                "Omit it"
            )
        state, labels = True if reads_state else None, self.labels
        every = read(self.data, size, cameras, self.fps, labels=labels, resize=rule, state=state)
        policy = use_state(self.config.policy, every, reads_state, self.data, "--policy.state-dim", self.given_flags)
        episodes, config = episodes_to_imitate(every, replace(self.config, policy=policy))
        check_cameras((start or config.policy).cameras, episodes.tiling, "the policy")
        if is_added and isinstance(start, AddsState) and episodes.state is not None:
            start = start.with_state(episodes.state[episodes.rows])
        check_same_state(self.begin_with, names=episodes.state_names if reads_state else ())
        check_instructions(self.data, episodes, required=True)
        if self.begin_with and start:
            check_same_actions(self.begin_with, start.action_spec, self.data[0], episodes.spec)
            config = finetuning(config, start, self.given_flags)
            kind = type(start).__name__
            print(f"{self.begin_with}: {kind}, trained with --fit.lr {config.fit.lr:g} and --batch {config.batch}")
        if world and self.imagined_in:
            self._check_world(world, self.imagined_in, episodes)
        config = fit_policy(config, episodes, self.given_flags, is_new=start is None)
        data = origin(episodes, self.image_key or _names(cameras), 0, rule, reads_state, start=self.begin_with)
        if not is_finished(self.out):
            plan = plan_sft(start, config, episodes, self.device)
            check_memory(plan, lambda room: advise_sft(plan.roles, config.batch, room), is_overruled=self.over_memory)
        if isinstance(start, nn.Module):
            start.to(self.device)
        if start and self.begin_with:
            self_test(start, self.begin_with)
        train_policy(
            episodes,
            self.out,
            config,
            self.device,
            start=start,
            world=world,
            imagined_length=self.imagined_length,
            origin=data,
        )
        return print_written(self.out / "policy.safetensors")

    def _check_world(self, world: WorldModel, path: Path, episodes: EpisodeSet) -> None:
        """Require data that the world model of --imagined-in can imagine again."""
        check_same_actions(path, world.action_spec, self.data[0], episodes.spec)
        check_same_rate(self.data[0], episodes.fps, path, world.fps, is_data=True)
        check_frame_size(world.frame_size, episodes.size, "--size")
        check_same_state(path, names=episodes.state_names if predicts_state(world) else ())

    def _check_kind(self, start: Policy) -> None:
        """Refuse a kind beside a policy of another kind, which would be trained instead."""
        chosen, found = type(self.config.policy), type(getattr(start, "config", None))
        if chosen not in (type(PolicyTraining().policy), found):
            raise InputError(
                f"--begin-with {self.begin_with}: it is a {type(start).__name__}, which keeps its kind, but the first "
                f"argument chooses {chosen.__name__.removesuffix('Config')}. Nothing was trained. Omit one of them"
            )


@checked(kw_only=True)
class WorldTrainingCommand(TrainingCommand):
    """A command that trains a world model and can hold out episodes.

    Attributes:
        held_out: episodes per task to hold out; eval-world and diagnose --held-out use the same ones. "auto" holds out
            a fifth of each task, at most 20, and none of fewer than 3; default auto, and 0 in Meta-World.
    """

    held_out: HeldOut = None


@checked(kw_only=True)
class TrainWorld(WorldTrainingCommand):
    """Train a world model on all logged episodes, failures included.

    Attributes:
        shares: share of the training per data set, one number each; in proportion to its length if omitted.
        actions: action format of the world model; that of the first data set if omitted.
        config: the training; sizes are adapted to the data's frame size, action width and rate.
        begin_with: world-model file to continue training from; it keeps its architecture, and every other setting that
            is not given as a flag.
        autoencoder_of: world-model file whose autoencoder is used unchanged, or folder or hub name of an image VAE.
        state: also predict the robot's state (proprioception), for policies that read it.
    """

    sizes: ClassVar[Mapping[str, Callable[[], WorldTraining]]] = WORLDS
    preset: tyro.conf.Suppress[str] = ""
    shares: Annotated[tuple[float, ...], tyro.conf.arg(metavar="N...")] = ()
    actions: Literal["bridge", "worldgym"] | None = None
    config: Annotated[WorldTraining, NO_PREFIX] = WorldTraining()
    begin_with: OptionalPath = None
    autoencoder_of: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    state: bool = False

    @classmethod
    def from_size(cls, size: str) -> Command:
        """See `Command.from_size`."""
        return cls(config=WORLDS[size](), preset=size, data=(), out=Path("runs") / f"world-{size}")

    def __call__(self) -> int:
        """Train the world model."""
        self.prepare(self.out)
        start = load_trainable_world(self.begin_with, self.device) if self.begin_with else None
        if self.config.new_robot and start is None:
            raise InputError("--new-robot: found without --begin-with, the world model to start from. Add it")
        if start and self.begin_with:
            kept = _OF_THE_WEIGHTS - (_OF_THE_ROBOT if self.config.new_robot else set())
            start.config = with_given_flags(
                start.config, self.config.world, "--world.", self.given_flags, kept, self.begin_with
            )
        same = None if self.config.new_robot else self.begin_with  # file whose robot is that of the data
        check_same_cameras(same, requested=self.image_key)
        world = start.config if start else self.config.world
        check_parts(self.config.fit, "fit.")
        if self.config.thaw or not (self.begin_with or self.autoencoder_of):  # then the autoencoder is trained, too
            check_parts(self.config.autoencoder, "autoencoder.")
        check_shares(self.shares, len(self.data))
        spec = _SPECS.get(self.actions or "")
        if start and same:
            spec = start.action_spec
        rule, cameras = rule_of(same, requested=self.resize), self.cameras or cameras_of(same)
        size = size_for(self.data, self.size, cameras, compact(world.frame_size))
        predicts = self.state or (world.state_dim > 0 and not self.config.new_robot)
        state, labels = True if predicts else None, self.labels
        other = f"Train without --begin-with {same}, or add --new-robot to learn what actions mean anew" if same else ""
        sets = read_each(
            self.data, size, spec, cameras, self.fps, labels=labels, resize=rule, state=state, advice=other
        )
        held_out = held_out_or_default(self.held_out, sets[0])
        sets, kept = hold_out_each(self.data, sets, held_out, held_out_keys(self.begin_with))
        joint = concatenate(sets)
        if predicts:
            check_one_state(self.data, sets)
            check_same_state(same, names=joint.state_names)
        if start and same:
            for path, part in zip(self.data, sets, strict=True):
                warn_out_of_range(part, start.action_spec, f"{path} and {self.begin_with}")
        if start:
            check_frame_size(world.frame_size, sets[0].size, "--size")
        default_rate = 5.0 if self.preset.startswith("bridge") else RATE
        config = fit_world(self.config, default_rate, sets[0], self.given_flags, is_new=start is None)
        require_within_episodes("--length", config.length, joint, self.given_flags)
        if self.config.new_robot:
            transformer = replace(config.world.transformer, action_dim=joint.spec.dim)
            config = replace(config, world=replace(config.world, transformer=transformer))
        flag = "--world.state-dim"
        world_config = use_state(config.world, joint, predicts, self.data, flag, self.given_flags)
        config = replace(config, world=world_config)
        train_world(
            sets,
            self.out,
            config,
            self.device,
            self.shares,
            start=start,
            autoencoder=_autoencoder(self.autoencoder_of, config.world, self.device) if start is None else None,
            origin=origin(joint, self.image_key or _names(cameras), held_out, rule, predicts, kept, same),
        )
        return print_written(self.out / "world.safetensors")


def _autoencoder(name: str | None, world: WorldConfig, device: str) -> Autoencoder | ImageVAE | None:
    """Load an autoencoder or image VAE; None to train one."""
    if name is None:
        if isinstance(world.autoencoder, VAEConfig):
            raise InputError(
                "--autoencoder-of: missing, but this size uses an image VAE. Give its folder or hub name, such as "
                "stabilityai/stable-diffusion-3-medium-diffusers, or a world model that has it"
            )
        return None
    path = Path(name)
    is_world = path.is_file() or path.suffix == ".safetensors"
    loaded = load_trainable_world(path, device).autoencoder if is_world else ImageVAE.pretrained(name).to(device)
    channels, shrink = loaded.channels, loaded.config.shrink
    expected = world.transformer.channels, world.autoencoder.shrink
    if (channels, shrink) != expected:
        raise InputError(
            f"{name}: found {channels} latent channels and a downsampling factor of {shrink}, expected {expected[0]} "
            f"and {expected[1]} as in the world model. Give another autoencoder, or another size"
        )
    return loaded


@checked(kw_only=True)
class Distill(WorldTrainingCommand):
    """Distill a multi-step world model with guidance into one with few steps.

    Attributes:
        config: the training.
        world: world-model file of the teacher, such as an imported checkpoint.
    """

    config: Annotated[Distillation, NO_PREFIX] = Distillation()
    world: Path

    def __call__(self) -> int:
        """Train the student."""
        self.prepare(self.out)
        check_parts(self.config)
        teacher = load_trainable_world(self.world, self.device)
        check_same_cameras(self.world, requested=self.image_key)
        rule, cameras = rule_of(self.world, requested=self.resize), self.cameras or cameras_of(self.world)
        if teacher.config.steps <= self.config.sampling_steps and teacher.config.guidance == 1:
            raise InputError(
                f"{self.world}: already samples in {teacher.config.steps} steps without guidance (--sampling-steps "
                f"{self.config.sampling_steps}). There is nothing to distill"
            )
        size = self.size or compact(teacher.frame_size)
        sets = read_each(self.data, size, None, cameras, self.fps, labels=self.labels, resize=rule)
        held_out = held_out_or_default(self.held_out, sets[0])
        sets, kept = hold_out_each(self.data, sets, held_out, held_out_keys(self.world))
        episodes = concatenate(sets)
        check_frame_size(teacher.frame_size, episodes.size, "--size")
        check_same_rate(self.data[0], episodes.fps, self.world, teacher.fps, is_data=True)
        require_same(episodes.spec, teacher.action_spec, f"{self.world} and data")
        data = origin(episodes, self.image_key or _names(cameras), held_out, rule, kept=kept)
        distill(teacher, episodes, self.out, self.config, self.device, data)
        return print_written(self.out / "world.safetensors")


@checked(kw_only=True)
class TrainJudge(TrainingCommand):
    """Train a success judge on labelled episodes and imagined replays.

    Attributes:
        world: world-model file; the starter world model if omitted.
        config: the training.
        begin_with: file of a learned judge to continue training from; it keeps its architecture, and every other
            setting that is not given as a flag.
        held_out: episodes per task to hold out, as in train-world; by default as many as for --world.
    """

    world: OptionalPath = None
    config: Annotated[JudgeTraining, NO_PREFIX] = JudgeTraining(calibration=0)
    begin_with: OptionalPath = None
    held_out: HeldOut = None

    def __call__(self) -> int:
        """Train the judge."""
        self.prepare(self.out)
        check_parts(self.config)
        start = load_learned_judge(self.begin_with, self.device) if self.begin_with else None
        if start and self.begin_with:
            start.config = with_given_flags(
                start.config, self.config.judge, "--judge.", self.given_flags, {"widths", "scales"}, self.begin_with
            )
        world = load_world(self.world or starter("world"), self.device)
        check_same_cameras(self.world, self.begin_with, requested=self.image_key)
        rule, cameras = rule_of(self.world, self.begin_with, requested=self.resize), self.cameras
        cameras, size = cameras or cameras_of(self.world), self.size or compact(world.frame_size)
        state = state_for(world)
        sets = read_each(self.data, size, cameras=cameras, fps=self.fps, labels=self.labels, resize=rule, state=state)
        held_out = held_out_of(self.world) if self.held_out is None else self.held_out
        sets, kept = hold_out_each(self.data, sets, held_out, held_out_keys(self.world))
        episodes = concatenate(sets)
        refuse_starters({"world": self.world}, self.data[0], episodes.spec)
        check_same_state(self.world, names=episodes.state_names)
        require_labels(self.data, episodes)
        check_instructions(self.data, episodes)
        check_frame_size(world.frame_size, episodes.size, "--size")
        check_same_rate(self.data[0], episodes.fps, self.world or starter("world"), world.fps, is_data=True)
        config = fit_judge(self.config, episodes, self.given_flags)
        data = origin(episodes, self.image_key or _names(cameras), held_out, rule, kept=kept)
        data |= {"stride": config.stride}
        train_judge(episodes, world, self.out, config, self.device, start=start, origin=data)
        return print_written(self.out / "judge.safetensors")


def _names(cameras: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return cameras as a component records them."""
    return (cameras,) if isinstance(cameras, str) else tuple(cameras or ())


def episodes_to_imitate(episodes: EpisodeSet, config: PolicyTraining) -> tuple[EpisodeSet, PolicyTraining]:
    """Choose the episodes to imitate: experts', or all but failures.

    Raises:
        InputError: all episodes are failures.
    """
    if len(episodes.where(source_prefix="expert")):
        return episodes, config
    chosen = episodes.select(episodes.succeeded | ~episodes.labelled)
    if len(chosen) == 0:
        raise InputError("DATA: all episodes are labelled failures. Give a data set with demonstrations")
    print(f"no episode is marked as an expert's: imitating all {len(chosen)} episodes not labelled as failures")
    experts = replace(chosen, source=("expert",) * len(chosen), task=("",) * len(chosen))
    return experts, replace(config, demonstrations=len(chosen))

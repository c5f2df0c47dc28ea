"""The commands that train: sft, train-world, train-judge, rl."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import tyro

from worldgymnast.actions import BRIDGE, WORLDGYM, require_same
from worldgymnast.cli.command import (
    LENT,
    REPORT,
    Command,
    Components,
    Computing,
    Learning,
    Watching,
    Weights,
    agree,
    components,
    familiar,
    fits,
    hold_out,
    is_metaworld,
    labelled,
    ledger,
    read,
    read_each,
    sees,
    told,
    wrote,
)
from worldgymnast.cli.fitting import RATE, fit_judge, fit_policy, fit_world, horizon_of, origin, same_cameras, size_for
from worldgymnast.cli.starters import parts, refuse_starters, refuse_strangers, refuse_tasks
from worldgymnast.configs import Count, Positive, checked
from worldgymnast.envs.metaworld import MetaWorldConfig, instructions
from worldgymnast.episodes.shares import check_shares
from worldgymnast.episodes.starts import read_starts
from worldgymnast.episodes.windows import EpisodeSet, concatenate, warn_outside
from worldgymnast.errors import InputError
from worldgymnast.judges.combined import check
from worldgymnast.measure.real import Scorer
from worldgymnast.protocols import StartSampler
from worldgymnast.recipes.finetune import FinetuneConfig, finetune
from worldgymnast.recipes.presets import WORLDS
from worldgymnast.recipes.quickstart import QuickstartConfig, starter
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.registry import (
    environment,
    load_judge,
    load_learned_judge,
    load_policy,
    load_trainable_world,
    load_world,
)
from worldgymnast.report.collect import collect
from worldgymnast.report.report import write
from worldgymnast.rl.starts import EpisodeStarts, FixedStarts, MixedStarts, PhotographedStarts
from worldgymnast.run import finished
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.training.distillation import Distillation, distill
from worldgymnast.training.fit import check_parts
from worldgymnast.training.judge import JudgeTraining, train_judge
from worldgymnast.training.policy import PolicyTraining, train_policy
from worldgymnast.training.world import WorldTraining, train_world
from worldgymnast.types import Start
from worldgymnast.worldmodel.autoencoder import Autoencoder
from worldgymnast.worldmodel.sampler import WorldModelConfig
from worldgymnast.worldmodel.vae import ImageVAE, VAEConfig

_KNOWN = 10
"""Photographs a task of the suite, with which other pictures are compared."""
_KNOWN_EPISODES = 60
"""Episodes of another robot's data whose first frames other pictures are compared with."""
_BOTH = ("--starts", "--starts")
_SPECS = {"bridge": BRIDGE, "worldgym": WORLDGYM}


@checked(kw_only=True)
class Sft(Learning):
    """A policy by imitating demonstrations: the first expert episodes of each task.

    Where no episode says that it is an expert's, as in other people's data, all that nobody labelled a failure are
    imitated.

    Attributes:
        config: the training.
        begin_with: a policy's file to go on from; its sizes count.
    """

    config: Annotated[PolicyTraining, LENT] = PolicyTraining()
    begin_with: Weights = None

    def __call__(self) -> int:
        """Trains."""
        self.prepare()
        check_parts(self.config)
        start = load_policy(self.begin_with, self.device) if self.begin_with else None
        same_cameras(self.begin_with, asked=self.image_key)
        size = size_for(self.data, self.size, self.cameras)
        episodes, config = imitated(read(self.data, size, self.cameras, self.fps), self.config)
        told(self.data, episodes, needed=True)
        if self.begin_with and start:
            agree(self.begin_with, start.action_spec, self.data[0], episodes.spec)
        else:
            config = fit_policy(config, episodes, self.given)
        known = origin(episodes, self.image_key)
        train_policy(episodes, self.out, config, self.device, start=start, origin=known)
        return wrote(self.out / "policy.safetensors")


@checked(kw_only=True)
class HoldingOut(Learning):
    """A command that leaves some episodes to be measured on.

    Attributes:
        held_out: episodes of each task that are kept out; `eval-world --held-out` takes the same ones.
    """

    held_out: Count = 0


@checked(kw_only=True)
class TrainWorld(HoldingOut):
    """A world model (autoencoder and transformer) from everything logged, failures included.

    Attributes:
        shares: how much of the training each data set makes up, one number each; as much as it is long if left out.
        actions: what the model's actions mean; as in the first data set if left out.
        config: the training; world and clips are made for the data's frame size, action width and rate.
        begin_with: a world model's file to go on from; its sizes count.
        autoencoder_of: a world model's file whose autoencoder is taken as it is, or an image VAE's folder or hub name.
    """

    sizes: ClassVar[Mapping[str, Callable[[], WorldTraining]]] = WORLDS
    preset: tyro.conf.Suppress[str] = ""
    shares: Annotated[tuple[float, ...], tyro.conf.arg(metavar="N...")] = ()
    actions: Literal["bridge", "worldgym"] | None = None
    config: Annotated[WorldTraining, LENT] = WorldTraining()
    begin_with: Weights = None
    autoencoder_of: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None

    @classmethod
    def sized(cls, size: str) -> Command:
        """See `Command.sized`."""
        return cls(config=WORLDS[size](), preset=size, data=(), out=Path("runs") / f"world-{size}")

    def __call__(self) -> int:
        """Trains."""
        self.prepare()
        start = load_trainable_world(self.begin_with, self.device) if self.begin_with else None
        same_cameras(self.begin_with, asked=self.image_key)
        world = start.config if start else self.config.world
        check_parts(self.config)
        check_shares(self.shares, len(self.data))
        wanted = start.action_spec if start else _SPECS[self.actions] if self.actions else None
        size = size_for(self.data, self.size, self.cameras, world.frame_size[0])
        sets = [hold_out(part, self.held_out)[0] for part in read_each(self.data, size, wanted, self.cameras, self.fps)]
        if start:
            for path, part in zip(self.data, sets, strict=True):
                warn_outside(part, start.action_spec, f"{path} and {self.begin_with}")
            fits(world.frame_size, sets[0].size, "--size")
        made_for = 5.0 if self.preset.startswith("bridge") else RATE
        config = fit_world(self.config, made_for, sets[0], self.given, size=start is None)
        codec = _codec(self.autoencoder_of, config.world, self.device) if start is None else None
        train_world(
            sets, self.out, config, self.device, self.shares, start=start, autoencoder=codec,
            origin=origin(concatenate(sets), self.image_key),
        )  # fmt: skip
        return wrote(self.out / "world.safetensors")


def _codec(name: str | None, world: WorldModelConfig, device: str) -> Autoencoder | ImageVAE | None:
    """The autoencoder in a world model's file, or the image VAE of that folder or hub name; None to train one."""
    if name is None:
        if isinstance(world.autoencoder, VAEConfig):
            raise InputError(
                "--autoencoder-of: found none, expected the image VAE's folder or hub name, such as "
                "stabilityai/stable-diffusion-3-medium-diffusers, or a world model that has it"
            )
        return None
    path = Path(name)
    ours = path.is_file() or path.suffix == ".safetensors"
    found = load_trainable_world(path, device).autoencoder if ours else ImageVAE.pretrained(name).to(device)
    shapes = (found.channels, found.config.shrink), (world.transformer.channels, world.autoencoder.shrink)
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{name}: found {shapes[0][0]} latent channels, {shapes[0][1]} times smaller than the frames; expected "
            f"{shapes[1][0]} and {shapes[1][1]} as the world model has; give another autoencoder or another size"
        )
    return found


@checked(kw_only=True)
class Distill(HoldingOut):
    """A world model that imagines a frame in one step, or few, from one that walks many with guidance.

    Attributes:
        config: the training.
        world: the teacher's file, such as a published checkpoint that was imported.
    """

    config: Annotated[Distillation, LENT] = Distillation()
    world: Path

    def __call__(self) -> int:
        """Trains."""
        self.prepare()
        check_parts(self.config)
        teacher = load_trainable_world(self.world, self.device)
        same_cameras(self.world, asked=self.image_key)
        if teacher.config.steps <= self.config.sampling_steps and teacher.config.guidance == 1:
            raise InputError(
                f"{self.world}: takes {teacher.config.steps} steps without guidance already, expected more than the "
                f"{self.config.sampling_steps} of --sampling-steps; nothing is left to distill"
            )
        episodes, _ = hold_out(
            read(self.data, self.size or teacher.frame_size[0], self.cameras, self.fps), self.held_out
        )
        sees(teacher, episodes.size, "--size")
        require_same(episodes.spec, teacher.action_spec, f"{self.world} and data")
        distill(teacher, episodes, self.out, self.config, self.device, origin(episodes, self.image_key))
        return wrote(self.out / "world.safetensors")


@checked(kw_only=True)
class TrainJudge(Learning):
    """A judge of success from labelled episodes and their imagined replays.

    Attributes:
        world: the world model's file.
        config: the training.
        begin_with: a learned judge's file to go on from, with new labels; its sizes count.
    """

    world: Weights = None
    config: Annotated[JudgeTraining, LENT] = JudgeTraining(calibration=0)
    begin_with: Weights = None

    def __call__(self) -> int:
        """Trains."""
        self.prepare()
        check_parts(self.config)
        start = load_learned_judge(self.begin_with, self.device) if self.begin_with else None
        world = load_world(self.world or starter("world"), self.device)
        same_cameras(self.world, self.begin_with, asked=self.image_key)
        episodes = read(self.data, self.size or world.frame_size[0], self.cameras, self.fps)
        refuse_starters({"world": self.world}, self.data[0], episodes.spec)
        labelled(self.data, episodes)
        told(self.data, episodes)
        sees(world, episodes.size, "--size")
        config = fit_judge(self.config, episodes, self.given)
        known = origin(episodes, self.image_key)
        train_judge(episodes, world, self.out, config, self.device, start=start, origin=known)
        return wrote(self.out / "judge.safetensors")


@checked(kw_only=True)
class Rl(Computing, Watching):
    """Finetune a policy by reinforcement learning inside a world model, scored for real as it goes.

    Attributes:
        config: the training.
        policy: the policy's file; the starter's if left out.
        world: the world model's file; the starter's if left out.
        judge: the judge's file, of weights or a description (.json); the starter's if left out.
        audit: another judge's file, which gives no reward and looks at what the first one calls a success.
        data: data sets whose frames are the starts.
        starts: folders of pictures (NAME.png with NAME.json) that are starts; with data too, half of each; without
            either, photographs.
        crop: take the middle square of pictures that are not square.
        anyway: go on with pictures or sentences unlike all that is known.
        photographs: new layouts a task that are photographed to start from.
        env: the real environment of the photographs and the scorings.
        unscored: train without a real environment: nothing is scored for real, and the last step is kept.
        out: the run folder; runs/rl-PRESET if left out.
    """

    takes_preset: ClassVar[bool] = True
    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {MetaWorldConfig: ("horizon",)}
    instead: ClassVar[str] = "use --rl.horizon"
    config: Annotated[FinetuneConfig, LENT]
    env: MetaWorldConfig = MetaWorldConfig()
    unscored: bool = False
    policy: Weights = None
    world: Weights = None
    judge: Weights = None
    audit: Weights = None
    data: tuple[Path, ...] = ()
    starts: tuple[Path, ...] = ()
    crop: bool = False
    anyway: bool = False
    photographs: Positive = 30
    out: Path

    @classmethod
    def start(cls, recipe: Recipe, name: str) -> Command:
        """See `Command.start`."""
        return cls(config=recipe.finetune, env=recipe.env, out=Path("runs") / f"rl-{name}")

    def __call__(self) -> int:
        """Trains and writes the report."""
        self.prepare()
        given = {"policy": self.policy, "world": self.world, "judge": self.judge}
        files, kept = parts(**given), ledger(self.out)
        rl, env = self.config.rl, self.env
        ours = is_metaworld(load_policy(files["policy"]).action_spec)
        if not (ours or self.data or self.starts):
            raise InputError(
                f"--data, --starts: found neither, and without them training starts at photographs of Meta-World, "
                f"which {files['policy']} does not act in. Add --data, or --starts with pictures"
            )
        found = components(files, self.device, kept, env if ours or not self.unscored else None)
        audit = load_judge(self.audit, self.device, kept) if self.audit else None
        same_cameras(*files.values(), self.audit, asked=self.image_key)
        if ours:
            refuse_tasks(self.judge, env.tasks)
        else:
            env = replace(env, size=found.world.frame_size[0])
        episodes = read(self.data, env.size, self.cameras, self.fps) if self.data else None
        if episodes is not None:
            refuse_starters(given, self.data[0], episodes.spec)
            refuse_strangers(files["policy"], found.policy.action_spec, self.data[0], episodes.spec)
        if not ours:
            rl = replace(rl, horizon=horizon_of(rl.horizon, "--rl.horizon", found, self.given, episodes))
        sentences = [(task, words) for task in env.tasks for words in instructions(task)] if ours else []
        if episodes is not None and not ours:
            sentences = list(zip(episodes.task, episodes.instruction, strict=True))
        for asked in filter(None, () if finished(self.out) else (found.judge, audit)):
            check(asked, sentences)
        starts = self._starts(env, found, episodes, ours)
        imagine = Imagination.of(found.policy, found.world, found.judge, rl.horizon)
        scorer = None if self.unscored else Scorer(environment(env), self.config.scoring)
        finetune(found.policy, imagine, starts, self.out, rl, scorer, audit)
        write(self.out / REPORT, collect(self.out))
        print(f"Report: {self.out / REPORT}")
        return wrote(self.out / "policy.safetensors")

    @staticmethod
    def _known(env: MetaWorldConfig, episodes: EpisodeSet | None, ours: bool) -> list[Start]:
        """Starts like those that world, policy and judge were trained on, as far as there are any."""
        if ours:
            plain = MetaWorldConfig(size=env.size, hold=env.hold)
            return PhotographedStarts(environment(plain), _KNOWN, QuickstartConfig().photograph_layout).photographs
        if episodes is None:
            print("--starts: not compared with what world, policy and judge know; add --data for that")
        return _first_frames(episodes)

    def _starts(self, env: MetaWorldConfig, found: Components, episodes: EpisodeSet | None, ours: bool) -> StartSampler:
        """Draws what the flags say."""
        drawn: list[StartSampler] = []
        if episodes is not None:
            tasks = env.tasks if ours else sorted(set(episodes.task))
            drawn.append(EpisodeStarts(episodes, tasks, self.config.rl.middle))
        if self.starts:
            given = [start for folder in self.starts for start in read_starts(folder, env.size, self.crop)]
            if not finished(self.out):
                check(found.judge, [(start.task, start.instruction) for start in given])
                said = () if episodes is None else episodes.instruction
                familiar(found.world, given, self._known(env, episodes, ours), _BOTH, self.anyway, () if ours else said)
            if not ours:
                pass
            elif strangers := sorted({start.task for start in given} - set(env.tasks)):
                print(f"--starts: {', '.join(strangers)} is trained on, and not scored: --env.tasks does not name it")
            drawn.append(FixedStarts(given))
        if not drawn:
            return PhotographedStarts(environment(env), self.photographs, QuickstartConfig().photograph_layout)
        return drawn[0] if len(drawn) == 1 else MixedStarts(*drawn)


def _first_frames(episodes: EpisodeSet | None) -> list[Start]:
    """The first frames of some episodes, spread over them."""
    count = 0 if episodes is None else len(episodes)
    chosen = sorted(set(np.linspace(0, count - 1, _KNOWN_EPISODES).astype(int).tolist())) if count else []
    return [] if episodes is None else [episodes.episode(e).start() for e in chosen]


def imitated(episodes: EpisodeSet, config: PolicyTraining) -> tuple[EpisodeSet, PolicyTraining]:
    """The episodes and config as `train_policy` wants them, also where nobody said who the expert was."""
    if len(episodes.where(source_prefix="expert")):
        return episodes, config
    chosen = episodes.select(episodes.succeeded | ~episodes.labelled)
    if len(chosen) == 0:
        raise InputError("data: found only labelled failures, expected demonstrations; give another data set")
    print(f"no episode is marked as an expert's: imitating all {len(chosen)} that nobody labelled a failure")
    alike = replace(chosen, source=("expert",) * len(chosen), task=("",) * len(chosen))
    return alike, replace(config, demonstrations=len(chosen))

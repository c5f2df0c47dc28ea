"""Compare variants of the embedded world model ("levers") on one fixed data set, within a time limit.

    python studies/worlds.py record runs/study/data
    python studies/worlds.py train all runs/study/all --data runs/study/data --minutes 60
    python studies/worlds.py judge runs/study/all --data runs/study/data --minutes 10
    python studies/worlds.py evaluate runs/study/all --data runs/study/data
    python studies/worlds.py table runs/study/*

The same command resumes what was stopped.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from command import Out, run
from episodes import HELD_OUT, apart, load, load_shared, load_training, record_all, some, sources
from tyro.conf import Positional
from variants import training

from worldgymnast.envs.metaworld import INSTRUCTIONS
from worldgymnast.episodes.windows import EpisodeSet, concatenate, data_hash
from worldgymnast.errors import InputError
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.measure.diagnosis import diagnose
from worldgymnast.protocols import TrainableJudge, TrainableWorld
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import Manifest, load_learned_judge, load_trainable_world, save_component, to_dict
from worldgymnast.run import Run
from worldgymnast.text import save_sentences
from worldgymnast.training.batches import encode_all, frame_batches, latent_batches, success_batches
from worldgymnast.training.fit import Batches, FitConfig, fit
from worldgymnast.training.judge import JudgeTraining, every_sentence, train_judge
from worldgymnast.training.replay import driven, replay
from worldgymnast.training.world import WorldTraining, train_autoencoder, train_world
from worldgymnast.weights import to_json, write_text
from worldgymnast.worldmodel.objective import FlowConfig
from worldgymnast.worldmodel.sampler import LatentWorldModel

HORIZON = 24
"""Actions of an episode that are judged."""
HALVED = "world-16.safetensors"
"""The world with its weights in 16 bits, as it is shipped."""
_SAFE = 0.88
"""Share of the time left that training is planned to fill."""
_FROM_NOTHING, _FURTHER = 2e-3, 7e-4
"""Learning rates of a world model without and with trained weights."""


# ---------------------------------------------------------------- commands


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Write the vectors of every sentence of a study, for a machine without the sentence encoder.

    Attributes:
        out: the file that WORLDGYMNAST_SENTENCES is to name there.
    """

    out: Out

    def __call__(self) -> None:
        """Writes them."""
        known = {s for told in (every_sentence(), INSTRUCTIONS) for own in told.values() for s in own}
        save_sentences(self.out, sorted(known))
        print(f"{self.out}: {len(known)} sentences")


@dataclass(frozen=True, kw_only=True)
class Record:
    """Record the data set: logged, policy, held_out, explored-0..7; what is there is skipped.

    Attributes:
        out: the folder.
        workers: processes of the real environment.
        share: of the episodes; less than 1 for trying things out.
        only: names of the sets to record; all of them if left out. A set has one process for its policy, so where
            there are many cores a process for each set is faster.
    """

    out: Out
    workers: int = 2
    share: float = 1.0
    only: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Records."""
        record_all(self.out, self.share, self.workers, self.only)


@dataclass(frozen=True)
class Sets:
    """Print the names of the sets."""

    def __call__(self) -> None:
        """Prints them."""
        print(*sources())


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one variant within a time limit; OUT/world/world.safetensors, and in 16 bits OUT/world-16.safetensors.

    A few steps are measured first. The number of steps that then fits is kept in OUT/plan.json, also for a resumed run.

    Attributes:
        variant: its name in studies/variants.py.
        out: the folder.
        data: what `record` wrote.
        minutes: all of it, the autoencoder included.
        start: "starter", "nothing", or a world model's file. Of another size of transformer only the autoencoder is
            taken; of another autoencoder nothing.
        device: where.
        clips: clips a step, if not the variant's.
        lr: peak learning rate; 2e-3 from nothing and 7e-4 with trained weights if left out.
        explored: share of the clips from the explorers' sets, in equal parts; without, as much as they are long.
    """

    variant: Positional[str]
    out: Out
    data: Path
    minutes: float
    start: str = "starter"
    device: str = "cpu"
    clips: int | None = None
    lr: float | None = None
    explored: float | None = None

    def __call__(self) -> None:
        """Trains."""
        deadline = time.monotonic() + 60 * self.minutes
        config = training(self.variant)
        config = replace(config, clips=self.clips or config.clips)
        sets, shares = load_shared(self.data, self.explored)
        data = concatenate(sets)
        begun, kept = begin(self.start, config, data, self.out.parent / "autoencoders", self.minutes, self.device)
        lr = self.lr or (_FURTHER if kept == "all weights" else _FROM_NOTHING)
        config = replace(config, fit=replace(config.fit, lr=lr, save_every=200))
        asked = {"variant": self.variant, "start": self.start, "kept": kept, "clips": config.clips, "lr": lr}
        asked |= {"explored": self.explored}
        plan = self._plan(asked, config, data, begun, deadline)
        config = replace(config, fit=replace(config.fit, steps=plan["steps"]))
        began = time.monotonic()
        world = train_world(sets, self.out / "world", config, self.device, shares, start=begun)
        made = Manifest(f"studies/worlds.py train {self.variant}", config.fit.seed, data_hash(data))
        save_component(self.out / HALVED, world, made, half=True)
        spent = (time.monotonic() - began) / 60
        plan["minutes_spent"] = round(plan.get("minutes_spent", 0.0) + spent, 2)
        write_text(self.out / "plan.json", to_json(plan))
        print(f"{self.out}: {plan['steps']} steps in {spent:.1f} minutes")

    def _plan(
        self,
        asked: Mapping[str, Any],
        config: WorldTraining,
        data: EpisodeSet,
        begun: LatentWorldModel,
        deadline: float,
    ) -> dict[str, Any]:
        """What OUT/plan.json says, or a new one."""
        file = self.out / "plan.json"
        if file.exists():
            plan = json.loads(file.read_text())
            if wrong := [name for name, value in asked.items() if plan[name] != value]:
                raise InputError(
                    f"{file}: found {wrong[0]} {plan[wrong[0]]}, expected {asked[wrong[0]]} as in this command; "
                    "repeat the first command to resume, or give another folder"
                )
            return plan
        part = apart(some(data, 64))
        encode_all(begun.autoencoder, part.frames[:512])  # warms up
        began = time.monotonic()
        latents = encode_all(begun.autoencoder, part.frames)
        encoding = (time.monotonic() - began) / len(latents) * len(data.frames)
        batches = latent_batches(part, latents, config.length, config.clips, 0, begun.device)
        each = step_seconds(begun, batches, config.fit)
        steps = max(1, int(_SAFE * (deadline - time.monotonic() - encoding) / each))
        plan = {
            **asked,
            "minutes": self.minutes,
            "device": device_name(self.device),
            "seconds_a_step": each,
            "steps": steps,
            "training_frames": steps * config.clips * config.length,
            "parameters": sum(p.numel() for p in begun.transformer.parameters()),
        }
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(file, to_json(plan))
        return plan


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Train the success classifier on the imagination of OUT's world within a time limit; OUT/judge/judge.safetensors.

    As many episodes are imagined as half of the time allows; their number and that of the steps are kept in
    OUT/judge.json.

    Attributes:
        out: the folder of `train`.
        data: what `record` wrote.
        minutes: all of it.
        start: "starter" or "nothing".
        device: where.
    """

    out: Out
    data: Path
    minutes: float
    start: str = "starter"
    device: str = "cpu"

    def __call__(self) -> None:
        """Trains."""
        deadline = time.monotonic() + 60 * self.minutes
        world = trained_world(self.out, self.device)
        begun = load_learned_judge(starter("judge"), self.device) if self.start == "starter" else None
        data = load_training(self.data)
        data = data.select(data.labelled)
        file = self.out / "judge.json"
        if not file.exists():
            write_text(file, to_json(self._plan(world, begun, data, deadline)))
        plan = json.loads(file.read_text())
        learning = FitConfig(plan["steps"], lr=5e-4 if begun else 1e-3, save_every=200)
        config = JudgeTraining(fit=learning, calibration=0)
        train_judge(some(data, plan["episodes"]), world, self.out / "judge", config, self.device, start=begun)

    def _plan(self, world: Any, begun: TrainableJudge | None, data: EpisodeSet, deadline: float) -> dict[str, Any]:
        config = JudgeTraining()
        trial = apart(some(data, 64))
        replay(world, some(data, 64, seed=1), seed=0)  # warms up
        began = time.monotonic()
        imagined = replay(world, trial, seed=0)
        each = 2 * (time.monotonic() - began) / len(trial)  # from the first frame, and from a later one
        batches = success_batches([trial, imagined], config.batch, 0, INSTRUCTIONS)
        judge = begun or SuccessClassifier(config.judge).to(self.device)
        step = step_seconds(judge, batches, config.fit)
        left = max(0.0, deadline - time.monotonic())
        episodes = min(len(data), max(len(trial), int(0.5 * left / each)))
        steps = min(config.fit.steps, max(1, int(_SAFE * (left - 1.2 * episodes * each) / step)))
        return {"episodes": episodes, "steps": steps, "start": self.start, "minutes": self.minutes}


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Diagnose OUT's world and judge on held-out and on training rollouts, and time them; OUT/numbers.json.

    Attributes:
        out: the folder of `train`.
        data: what `record` wrote.
        episodes: at most so many of each.
        device: where.
    """

    out: Out
    data: Path
    episodes: int = 240
    device: str = "cpu"

    def __call__(self) -> None:
        """Measures."""
        world = trained_world(self.out, self.device)
        own = self.out / "judge" / "judge.safetensors"
        judge = load_learned_judge(own if own.exists() else starter("judge"), self.device)
        trained = load_training(self.data)
        trained = trained.select(trained.where(source_prefix="policy"))
        held = load(self.data, HELD_OUT)
        found: dict[str, Any] = {"plan": json.loads((self.out / "plan.json").read_text())}
        found["judge"] = "its own" if own.exists() else "the starter's"
        found["training"] = diagnose(world, judge, some(trained, self.episodes), horizon=HORIZON)
        found["held_out"] = diagnose(world, judge, some(held, self.episodes), horizon=HORIZON)
        found["frames_per_second"] = imagined_per_second(world, held)
        found["evaluated_on"] = device_name(self.device)
        write_text(self.out / "numbers.json", to_json(found))
        print(table([self.out]))


@dataclass(frozen=True, kw_only=True)
class Table:
    """Print a Markdown table of what `evaluate` measured.

    Attributes:
        out: the folders.
    """

    out: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="OUT...")]

    def __call__(self) -> None:
        """Prints it."""
        print(table([path for path in self.out if (path / "numbers.json").exists()]))


# ---------------------------------------------------------------- parts


def begin(
    start: str, config: WorldTraining, data: EpisodeSet, autoencoders: Path, minutes: float, device: str
) -> tuple[LatentWorldModel, str]:
    """A world model of the variant's size, and what it kept of `start`.

    Its autoencoder is trained: that of `start` where the configs agree, else one that is trained once for all variants.
    """
    given = None
    if start != "nothing":
        given = load_trainable_world(starter("world") if start == "starter" else Path(start), device)
    torch.manual_seed(config.fit.seed)
    world = LatentWorldModel(config.world, data.spec, data.fps).to(device)
    if given is None or given.config.autoencoder != config.world.autoencoder:
        source = cached_autoencoder(world, config, data, autoencoders, 0.3 * minutes)
        world.autoencoder.load_state_dict(source.autoencoder.state_dict())
        return world, "nothing"
    if given.config.transformer != config.world.transformer:
        world.autoencoder.load_state_dict(given.autoencoder.state_dict())
        return world, "the autoencoder"
    if isinstance(objective := world.config.objective, FlowConfig):  # it can imagine from the first step on
        world.config = replace(world.config, objective=replace(objective, unroll_from=0.0))
    state = world.state_dict() | given.state_dict()
    world.load_state_dict({name: state[name] for name in world.state_dict()})
    return world, "all weights"


def cached_autoencoder(
    world: TrainableWorld, config: WorldTraining, data: EpisodeSet, folder: Path, minutes: float
) -> TrainableWorld:
    """A world model whose autoencoder is trained; in FOLDER by its config and the data, for every variant with it."""
    deadline = time.monotonic() + 60 * minutes
    key = json.dumps([to_dict(config.world.autoencoder), config.frames, data_hash(data)])
    own = folder / hashlib.sha256(key.encode()).hexdigest()[:12]
    result, file, device = own / "world.safetensors", own / "steps.json", str(world.device)
    if not result.exists():
        if not file.exists():
            batches = frame_batches(data, config.frames, 0)
            module = copy.deepcopy(world.autoencoder).requires_grad_(True)
            each = step_seconds(module, batches, config.autoencoder)
            fits = max(1, int(_SAFE * (deadline - time.monotonic()) / each))
            own.mkdir(parents=True, exist_ok=True)
            write_text(file, to_json(min(config.autoencoder.steps, fits)))
        steps = json.loads(file.read_text())
        config = replace(config, autoencoder=replace(config.autoencoder, steps=steps, save_every=200))
        train_autoencoder(world, data, own / "run", config)
        save_component(result, world, Manifest("studies/worlds.py", data=data_hash(data)))
    return load_trainable_world(result, device)


def step_seconds(module: Any, batches: Batches, config: FitConfig, steps: int = 8) -> float:
    """Mean seconds of a step after the first two, on a copy of the module; half of them are late in training."""
    trial = replace(config, steps=steps, log_every=1, save_every=steps)
    with tempfile.TemporaryDirectory() as folder, Run(Path(folder) / "run", {}) as run:
        fit(copy.deepcopy(module), batches, trial, run, "measuring")
        ended = [row["seconds"] for row in run.metrics()]
    return (ended[-1] - ended[1]) / (len(ended) - 2)


def trained_world(out: Path, device: str) -> TrainableWorld:
    """OUT's world; raises InputError where it is not trained."""
    path = out / "world" / "world.safetensors"
    if not path.exists():
        raise InputError(f"{path}: found no world, expected a trained one; python studies/worlds.py train ... {out}")
    return load_trainable_world(path, device)


def imagined_per_second(world: Any, episodes: EpisodeSet, rows: int = 96) -> float:
    """Frames that are imagined and decoded a second, `rows` rollouts side by side; the better of two times."""
    part = episodes.select(np.arange(rows) % len(episodes))
    frames = torch.from_numpy(np.asarray(part.frames[part.first]))
    actions = torch.from_numpy(driven(part, np.arange(rows), HORIZON))
    times = []
    for _ in range(3):
        began = time.perf_counter()
        _, seen = world.step(world.start(frames), actions, generator=torch.Generator().manual_seed(0))
        seen.cpu()
        times.append(time.perf_counter() - began)
    return rows * HORIZON / min(times[1:])


def device_name(device: str) -> str:
    """The GPU, or the number of threads."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"


# ---------------------------------------------------------------- the table

COLUMNS = (
    "variant",
    "kept of the start",
    "fit: recall at 95 %",
    "held-out recall at 95 %",
    "AUROC",
    "PSNR at 1, 5, 10, 20",
    "sharpness at 10: of real, of round trip",
    "Brier",
    "frames/s",
    "training frames",
    "steps/s",
    "minutes",
)


def table(folders: list[Path]) -> str:
    """A Markdown table of OUT/numbers.json, one row a folder."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for folder in folders:
        lines.append("| " + " | ".join(_row(json.loads((folder / "numbers.json").read_text()))) + " |")
    return "\n".join(lines)


def _row(found: Mapping[str, Any]) -> list[str]:
    plan, held, fitted = (found[name] for name in ("plan", "held_out", "training"))
    seen = held["all"]["sources"]["imagined"]
    look = held["all"]["fidelity"]
    psnr = look["psnr"]["imagined"]["mean"]
    sharp = [
        value
        for name in ("imagined", "over_round_trip")
        for mark, value in zip(look["frames"], look["sharpness"][name]["mean"], strict=True)
        if mark == 10
    ]
    return [
        plan["variant"],
        plan["kept"],
        _share(fitted["all"]["sources"]["imagined"]["strict"]["known"]),
        _share(seen["strict"]["known"]),
        _number(seen["auroc"]["value"], 3),
        ", ".join(_number(value, 1) for value in psnr),
        ", ".join(_number(value, 2) for value in sharp),
        _number(seen["brier"]["value"], 3),
        f"{found['frames_per_second']:.0f}",
        f"{plan['training_frames'] / 1e6:.2f}M",
        f"{1 / plan['seconds_a_step']:.2f}",
        f"{plan.get('minutes_spent', plan['minutes']):.1f}",
    ]


def _number(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def _share(estimate: Mapping[str, float | None]) -> str:
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "unknown"
    return f"{100 * value:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


if __name__ == "__main__":
    sys.exit(run(Sentences | Record | Sets | Train | Judge | Evaluate | Table, __doc__))

"""Compares variants of the embedded world model on one fixed data set, within a time limit.

    python -m studies.worlds record runs/study/data
    python -m studies.worlds train all runs/study/all --data runs/study/data --minutes 60
    python -m studies.worlds judge runs/study/all --data runs/study/data --minutes 10
    python -m studies.worlds evaluate runs/study/all --data runs/study/data
    python -m studies.worlds table runs/study/*

The same command resumes a stopped one.
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
from tyro.conf import Positional

from studies.command import Out, run
from studies.episodes import HELD_OUT, compact, load, load_shared, load_training, record_all, some, sources
from studies.variants import training
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
from worldgymnast.training.judge import JudgeTraining, all_instructions, train_judge
from worldgymnast.training.replay import logged_actions, replay
from worldgymnast.training.world import WorldTraining, train_autoencoder, train_world
from worldgymnast.weights import to_json, write_text
from worldgymnast.worldmodel.objective import FlowConfig
from worldgymnast.worldmodel.sampler import LatentWorldModel

HORIZON = 24
"""Judged actions per episode."""
HALVED = "world-16.safetensors"
"""File name of the world model with 16-bit weights, as shipped."""
_SAFE = 0.88
"""Share of the remaining time to plan for training."""
_FROM_NOTHING, _FURTHER = 2e-3, 7e-4
"""Learning rates of a world model without and with trained weights."""


# ---------------------------------------------------------------- commands


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Write the embeddings of every sentence of a study, for a machine without the sentence encoder.

    Attributes:
        out: the file; set WORLDGYMNAST_SENTENCES to it there.
    """

    out: Out

    def __call__(self) -> None:
        """Write them."""
        known = {s for by_task in (all_instructions(), INSTRUCTIONS) for each in by_task.values() for s in each}
        save_sentences(self.out, sorted(known))
        print(f"{self.out}: {len(known)} sentences")


@dataclass(frozen=True, kw_only=True)
class Record:
    """Record the data set: logged, policy, held_out, explored-0..7; existing sets are skipped.

    Attributes:
        out: the folder.
        workers: processes of the real environment.
        share: share of the episodes; below 1 for a trial.
        only: names of the sets to record; all by default. A set uses one process for its policy, so with many cores
            one command per set is faster.
    """

    out: Out
    workers: int = 2
    share: float = 1.0
    only: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Record."""
        record_all(self.out, self.share, self.workers, self.only)


@dataclass(frozen=True)
class Sets:
    """Print the names of the sets."""

    def __call__(self) -> None:
        """Print them."""
        print(*sources())


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one variant within a time limit; OUT/world/world.safetensors, and in 16 bits OUT/world-16.safetensors.

    A few steps are timed first. The number of steps that fits is saved to OUT/plan.json, also for resuming.

    Attributes:
        variant: its name in studies/variants.py.
        out: the run folder.
        data: folder written by `record`.
        minutes: total time, including the autoencoder.
        start: "starter", "nothing", or a world model's file. With another transformer size only its autoencoder is
            used; with another autoencoder nothing.
        device: of the training.
        clips: clips per step, if not the variant's.
        lr: peak learning rate; by default 2e-3 from nothing and 7e-4 with trained weights.
        explored: share of clips from explorers' sets, in equal parts; by default proportional to their length.
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
        """Train."""
        deadline = time.monotonic() + 60 * self.minutes
        config = training(self.variant)
        config = replace(config, clips=self.clips or config.clips)
        sets, shares = load_shared(self.data, self.explored)
        data = concatenate(sets)
        initial, kept = begin(self.start, config, data, self.out.parent / "autoencoders", self.minutes, self.device)
        lr = self.lr or (_FURTHER if kept == "all weights" else _FROM_NOTHING)
        config = replace(config, fit=replace(config.fit, lr=lr, save_every=200))
        settings = {"variant": self.variant, "start": self.start, "kept": kept, "clips": config.clips, "lr": lr}
        settings |= {"explored": self.explored}
        plan = self._plan(settings, config, data, initial, deadline)
        config = replace(config, fit=replace(config.fit, steps=plan["steps"]))
        began = time.monotonic()
        world = train_world(sets, self.out / "world", config, self.device, shares, start=initial)
        made = Manifest(f"studies/worlds.py train {self.variant}", config.fit.seed, data_hash(data))
        save_component(self.out / HALVED, world, made, half=True)
        spent = (time.monotonic() - began) / 60
        plan["minutes_spent"] = round(plan.get("minutes_spent", 0.0) + spent, 2)
        write_text(self.out / "plan.json", to_json(plan))
        print(f"{self.out}: {plan['steps']} steps in {spent:.1f} minutes")

    def _plan(
        self,
        settings: Mapping[str, Any],
        config: WorldTraining,
        data: EpisodeSet,
        initial: LatentWorldModel,
        deadline: float,
    ) -> dict[str, Any]:
        """Return the plan in OUT/plan.json, or make a new one."""
        file = self.out / "plan.json"
        if file.exists():
            plan = json.loads(file.read_text())
            if different := [name for name, value in settings.items() if plan[name] != value]:
                raise InputError(
                    f"{file}: {different[0]} is {plan[different[0]]}, but {settings[different[0]]} in this command. "
                    "Repeat the first command to resume, or give another folder"
                )
            return plan
        part = compact(some(data, 64))
        encode_all(initial.autoencoder, part.frames[:512])  # warmup
        began = time.monotonic()
        latents = encode_all(initial.autoencoder, part.frames)
        encoding = (time.monotonic() - began) / len(latents) * len(data.frames)
        batches = latent_batches(part, latents, config.length, config.clips, 0, initial.device)
        each = step_seconds(initial, batches, config.fit)
        steps = max(1, int(_SAFE * (deadline - time.monotonic() - encoding) / each))
        plan = {
            **settings,
            "minutes": self.minutes,
            "device": device_name(self.device),
            "seconds_a_step": each,
            "steps": steps,
            "training_frames": steps * config.clips * config.length,
            "parameters": sum(p.numel() for p in initial.transformer.parameters()),
        }
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(file, to_json(plan))
        return plan


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Train the success classifier on the imagination of OUT's world within a time limit; OUT/judge/judge.safetensors.

    Half of the time is for imagining episodes. Their number and the number of steps are saved to OUT/judge.json.

    Attributes:
        out: the folder of `train`.
        data: folder written by `record`.
        minutes: total time.
        start: "starter" or "nothing".
        device: of the training.
    """

    out: Out
    data: Path
    minutes: float
    start: str = "starter"
    device: str = "cpu"

    def __call__(self) -> None:
        """Train."""
        deadline = time.monotonic() + 60 * self.minutes
        world = trained_world(self.out, self.device)
        initial = load_learned_judge(starter("judge"), self.device) if self.start == "starter" else None
        data = load_training(self.data)
        data = data.select(data.labelled)
        file = self.out / "judge.json"
        if not file.exists():
            write_text(file, to_json(self._plan(world, initial, data, deadline)))
        plan = json.loads(file.read_text())
        learning = FitConfig(plan["steps"], lr=5e-4 if initial else 1e-3, save_every=200)
        config = JudgeTraining(fit=learning, calibration=0)
        train_judge(some(data, plan["episodes"]), world, self.out / "judge", config, self.device, start=initial)

    def _plan(self, world: Any, initial: TrainableJudge | None, data: EpisodeSet, deadline: float) -> dict[str, Any]:
        config = JudgeTraining()
        trial = compact(some(data, 64))
        replay(world, some(data, 64, seed=1), seed=0)  # warmup
        began = time.monotonic()
        imagined = replay(world, trial, seed=0)
        each = 2 * (time.monotonic() - began) / len(trial)  # from the first frame, and from a later one
        batches = success_batches([trial, imagined], config.batch, 0, INSTRUCTIONS)
        judge = initial or SuccessClassifier(config.judge).to(self.device)
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
        data: folder written by `record`.
        episodes: most episodes of each.
        device: of the models.
    """

    out: Out
    data: Path
    episodes: int = 240
    device: str = "cpu"

    def __call__(self) -> None:
        """Measure."""
        world = trained_world(self.out, self.device)
        own = self.out / "judge" / "judge.safetensors"
        judge = load_learned_judge(own if own.exists() else starter("judge"), self.device)
        trained = load_training(self.data)
        trained = trained.select(trained.where(source_prefix="policy"))
        held = load(self.data, HELD_OUT)
        results: dict[str, Any] = {"plan": json.loads((self.out / "plan.json").read_text())}
        results["judge"] = "its own" if own.exists() else "the starter's"
        results["training"] = diagnose(world, judge, some(trained, self.episodes), horizon=HORIZON)
        results["held_out"] = diagnose(world, judge, some(held, self.episodes), horizon=HORIZON)
        results["frames_per_second"] = imagined_per_second(world, held)
        results["evaluated_on"] = device_name(self.device)
        write_text(self.out / "numbers.json", to_json(results))
        print(table([self.out]))


@dataclass(frozen=True, kw_only=True)
class Table:
    """Print a Markdown table of the results of `evaluate`.

    Attributes:
        out: the folders.
    """

    out: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="OUT...")]

    def __call__(self) -> None:
        """Print it."""
        print(table([path for path in self.out if (path / "numbers.json").exists()]))


# ---------------------------------------------------------------- parts


def begin(
    start: str, config: WorldTraining, data: EpisodeSet, autoencoders: Path, minutes: float, device: str
) -> tuple[LatentWorldModel, str]:
    """Return a world model of the variant's size with a trained autoencoder, and what it kept of `start`.

    The autoencoder is that of `start` if the configs agree; otherwise one is trained once for all variants.
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
    if isinstance(
        objective := world.config.objective, FlowConfig
    ):  # it can train on its own rollouts from the first step
        world.config = replace(world.config, objective=replace(objective, unroll_from=0.0))
    state = world.state_dict() | given.state_dict()
    world.load_state_dict({name: state[name] for name in world.state_dict()})
    return world, "all weights"


def cached_autoencoder(
    world: TrainableWorld, config: WorldTraining, data: EpisodeSet, folder: Path, minutes: float
) -> TrainableWorld:
    """Return a world model with a trained autoencoder, cached in FOLDER by config and data."""
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
    """Return the mean seconds per step after the first two, on a copy of the module."""
    trial = replace(config, steps=steps, log_every=1, save_every=steps)
    with tempfile.TemporaryDirectory() as folder, Run(Path(folder) / "run", {}) as run:
        fit(copy.deepcopy(module), batches, trial, run, "measuring")
        times = [row["seconds"] for row in run.metrics()]
    return (times[-1] - times[1]) / (len(times) - 2)


def trained_world(out: Path, device: str) -> TrainableWorld:
    """Load OUT's world model; raise InputError if it is missing."""
    path = out / "world" / "world.safetensors"
    if not path.exists():
        raise InputError(f"{path} is missing. Run: python -m studies.worlds train ... {out}")
    return load_trainable_world(path, device)


def imagined_per_second(world: Any, episodes: EpisodeSet, rows: int = 96) -> float:
    """Return imagined frames per second with `rows` parallel rollouts; the better of two runs."""
    part = episodes.select(np.arange(rows) % len(episodes))
    frames = torch.from_numpy(np.asarray(part.frames[part.first]))
    actions = torch.from_numpy(logged_actions(part, np.arange(rows), HORIZON))
    times = []
    for _ in range(3):
        began = time.perf_counter()
        _, imagined = world.step(world.start(frames), actions, generator=torch.Generator().manual_seed(0))
        imagined.cpu()
        times.append(time.perf_counter() - began)
    return rows * HORIZON / min(times[1:])


def device_name(device: str) -> str:
    """Return the name of the GPU, or the number of CPU threads."""
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
    """Return a Markdown table of OUT/numbers.json, a row per folder."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for folder in folders:
        lines.append("| " + " | ".join(_row(json.loads((folder / "numbers.json").read_text()))) + " |")
    return "\n".join(lines)


def _row(found: Mapping[str, Any]) -> list[str]:
    plan, held, fitted = (found[name] for name in ("plan", "held_out", "training"))
    imagined = held["all"]["sources"]["imagined"]
    fidelity = held["all"]["fidelity"]
    psnr = fidelity["psnr"]["imagined"]["mean"]
    sharpness = [
        value
        for name in ("imagined", "over_round_trip")
        for mark, value in zip(fidelity["frames"], fidelity["sharpness"][name]["mean"], strict=True)
        if mark == 10
    ]
    return [
        plan["variant"],
        plan["kept"],
        _share(fitted["all"]["sources"]["imagined"]["strict"]["known"]),
        _share(imagined["strict"]["known"]),
        _number(imagined["auroc"]["value"], 3),
        ", ".join(_number(value, 1) for value in psnr),
        ", ".join(_number(value, 2) for value in sharpness),
        _number(imagined["brier"]["value"], 3),
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

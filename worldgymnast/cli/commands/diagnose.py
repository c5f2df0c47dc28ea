"""The command diagnose: causes of wrong verdicts on imagined rollouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tyro.conf import Positional

from worldgymnast.cli.checks import (
    check_frame_size,
    check_observed,
    check_same_actions,
    check_same_rate,
    require_labels,
)
from worldgymnast.cli.command import (
    REPORT,
    DeviceCommand,
    HeldOut,
    LabelledCommand,
    OptionalPath,
    OptionalPositive,
    print_written,
)
from worldgymnast.cli.commands.judge_evaluation import load_judge_with_ledger
from worldgymnast.cli.data_defaults import frames_for, rate_of
from worldgymnast.cli.environment import default_horizon
from worldgymnast.cli.inputs import choose_held_out, read_each, state_for
from worldgymnast.cli.origins import cameras_of, check_same_cameras, check_same_state, fps_of, held_out_keys, rule_of
from worldgymnast.cli.starters import component_files, refuse_starters, refuse_unknown_tasks, spec_in
from worldgymnast.configs import Count, Executed, NonNegative, Positive, Seed, checked
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.errors import InputError
from worldgymnast.evaluation.closed_loop import Episode, read_episodes
from worldgymnast.judges.combined import check
from worldgymnast.measure.diagnosis import Strip, examine
from worldgymnast.measure.recorded import Pair, imagine_recorded, recorded_temperature
from worldgymnast.preprocessing import Size, compact
from worldgymnast.protocols import Policy, WorldModel
from worldgymnast.registry import load_policy, load_world
from worldgymnast.report import tables
from worldgymnast.report.collect import collect
from worldgymnast.report.diagnosis import FILE, MAIN, closed_loop_sheet, plain_loops, recorded_sheet, sentences, sheets
from worldgymnast.report.report import write
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.run import check_folder, check_writable, command_line
from worldgymnast.types import STATE
from worldgymnast.video import contact_sheet, png
from worldgymnast.weights import to_json, write_bytes, write_text

STRIPS = "diagnosis"
"""Folder of the frame strips, in OUT."""


@checked(kw_only=True)
class Diagnose(DeviceCommand, LabelledCommand):
    """Locate the cause of wrong verdicts: judge, frame encoding or dynamics.

    The judge scores labelled real rollouts three times: on their real frames, on these frames encoded and decoded by
    the world model, and on imagined replays of the same actions. With --policy, the policy also acts in the world
    model, and its imagined success is compared with the recorded one. With outcomes of closed-loop episodes, the
    correlation of imagined and real outcomes is also measured.

    Attributes:
        data: labelled data sets that neither world model nor judge was trained on; several are grouped by policy.
        world: world-model file; the starter world model if omitted.
        judge: judge file; the starter judge if omitted.
        policy: policy that recorded DATA; it acts in the world model from the first frame of every episode.
        temperature: its sampling temperature; by default that recorded in DATA, otherwise 0.
        execute: actions that it executed of each predicted chunk in the recording; all by default.
        outcomes: files with imagined and real outcomes: outcomes.json of agree, evaluation.json of quickstart,
            reproduce or rl, or state.json of an RL checkpoint.
        by: group policies by the source recorded in the data, or by folder; "auto" is by folder if several are given.
        held_out: use only the episodes that train-world or distill held out with this number per task, or "auto".
        trained: with --held-out, use the training episodes instead, which shows whether the world model fits them.
        horizon: actions per episode to judge; default 24 in Meta-World, else whole episodes.
        stride: frames between two that the judge sees; default 0.15 seconds (2 frames in Meta-World).
        rows: episodes imagined per batch; fewer need less memory.
        strips: maximum number of frame strips of missed successes.
        seed: random seed of imagination and bootstraps.
        out: folder for diagnosis.json, the strips and report.html; the folder of a run adds a section to its report.
    """

    data: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DATA...")] = ()
    world: OptionalPath = None
    judge: OptionalPath = None
    policy: OptionalPath = None
    temperature: NonNegative | None = None
    execute: Executed = None
    outcomes: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE...")] = ()
    by: Literal["auto", "source", "folder"] = "auto"
    held_out: HeldOut = None
    trained: bool = False
    horizon: OptionalPositive = None
    stride: OptionalPositive = None
    rows: Positive = 32
    strips: Count = 4
    seed: Seed = 0
    out: OptionalPath = None

    def __post_init__(self) -> None:
        if not self.data and not self.outcomes:
            raise InputError("DATA, --outcomes: both are missing. Give labelled rollouts, or a file with outcomes")
        if self.policy is not None and len(self.data) != 1:
            raise InputError(
                f"--policy: found {len(self.data)} data sets, expected one, of rollouts of this policy. Join several "
                "with data add A B --out ALL"
            )
        if self.trained and not self.held_out:
            raise InputError("--trained: --held-out is missing. Give the same as in training")

    def __call__(self) -> int:
        """Print the tables; with `out`, write numbers, strips and report."""
        if self.out is not None:
            check_out(self.out)
        outcomes = read_loops(self.outcomes)  # before anything that takes minutes
        self.prepare()
        loops = {name: plain_loops(episodes, self.seed) for name, episodes in outcomes.items()}
        results: dict[str, Any] = {}
        strips: Sequence[Strip] = ()
        if self.data:
            results, strips = self._examine()
        shown = sheets(results)[:MAIN] if results else []
        if "recorded" in results:
            shown = [recorded_sheet(results["recorded"]), *shown]
        for sheet in [*shown, *(closed_loop_sheet(*loop) for loop in loops.items())]:
            tables.show(tables.sheet(sheet))
        for sentence in sentences(results) if results else ():
            print(sentence)
        if self.out is None:
            return 0
        if loops:
            results["closed_loop"] = loops
        return self._write(self.out, results | {"command": command_line()}, strips)

    def _examine(self) -> tuple[dict[str, Any], Sequence[Strip]]:
        """Run the diagnosis; return its numbers and strips."""
        given = {"world": self.world, "judge": self.judge}
        if self.policy is not None and (spec := spec_in(self.policy)) is not None:
            refuse_starters(given, self.policy, spec)
        files = component_files(**given)
        world, judge = load_world(files["world"], self.device), load_judge_with_ledger(files["judge"], self.device)
        policy = None if self.policy is None else self._load_policy(self.policy, files["world"], world)
        check_same_cameras(files["world"], files["judge"], self.policy, requested=self.image_key)
        state = True if policy is not None and STATE in policy.needs else state_for(world)
        episodes = self._episodes(files, compact(world.frame_size), state)
        refuse_starters(given, self.data[0], episodes.spec)
        refuse_unknown_tasks(self.judge, sorted(set(episodes.task)))
        check_frame_size(world.frame_size, episodes.size, "data convert SOURCE TARGET --size")
        check_same_rate(self.data[0], episodes.fps, files["world"], world.fps, is_data=True)
        require_labels(self.data, episodes)
        check_same_state(self.policy, files["world"], names=episodes.state_names)
        check(judge, set(zip(episodes.task, episodes.instruction, strict=True)))
        pairs: list[Pair] = []
        horizon = self.horizon or default_horizon(episodes.spec)
        if policy is not None:
            self._print_assumed(episodes, horizon)
            pairs = imagine_recorded(
                policy,
                world,
                judge,
                episodes,
                horizon=horizon,
                execute=self.execute,
                temperature=self.temperature,
                rows=self.rows,
                seed=self.seed,
            )
        diagnosis = examine(
            world,
            judge,
            episodes,
            horizon=horizon,
            stride=self.stride or frames_for(2, rate_of(episodes)),
            seed=self.seed,
            rows=self.rows,
            strips=self.strips if self.out is not None else 0,
        )
        numbers = diagnosis.numbers
        if skipped := len(episodes) - numbers["all"]["episodes"]:
            print(f"{skipped} of {len(episodes)} episodes have no label or no action and are skipped")
        errors = Counter(row[s]["error"] for row in numbers["rows"] for s in numbers["sources"] if row[s]["error"])
        errors.update(pair.error for pair in pairs if pair.error)
        if errors:
            error, count = errors.most_common(1)[0]
            print(f"{judge.name}: {errors.total()} judgements failed. Most common error ({count}x): {error}")
        if self.policy is not None:
            numbers["recorded"] = {"policy": self.policy.name, "pairs": [asdict(pair) for pair in pairs]}
        return numbers, diagnosis.strips

    def _print_assumed(self, episodes: EpisodeSet, horizon: int | None) -> None:
        """Say what is taken for granted about the recording."""
        unnamed = sum(recorded_temperature(source) is None for source in episodes.source)
        if unnamed and self.temperature is None:
            print(
                f"{unnamed} of {len(episodes)} episodes do not record who acted and how; assumed: {self.policy} at "
                "temperature 0. --temperature changes it"
            )
        longest = int(episodes.length.max())
        if horizon is not None and horizon < longest:
            print(f"first {horizon} of up to {longest} actions; later successes count as failures (--horizon)")

    def _load_policy(self, path: Path, world_path: Path, world: WorldModel) -> Policy:
        """Load the policy, and require that it fits the world model."""
        policy = load_policy(path, self.device)
        check_same_actions(path, policy.action_spec, world_path, world.action_spec)
        check_observed(path, policy, world_path, world)
        executed_per_look(policy, self.execute)
        return policy

    def _episodes(self, files: Mapping[str, Path], size: Size, state: bool | None) -> EpisodeSet:
        """Read the data sets as one, with policies as sources."""
        sets = read_each(
            self.data,
            size,
            cameras=self.cameras or cameras_of(files["world"]),
            fps=self.fps,
            assumed_fps=fps_of(files["world"]),
            labels=self.labels,
            state=state,
            resize=rule_of(files["world"], files["judge"], self.policy, requested=self.resize),
        )
        if self.by == "folder" or (self.by == "auto" and len(sets) > 1):
            sets = [
                replace(part, source=(name,) * len(part))
                for name, part in zip(short_names(self.data), sets, strict=True)
            ]
        return concatenate(choose_held_out(self.data, sets, self.held_out, self.trained, held_out_keys(self.world)))

    def _write(self, out: Path, results: dict[str, Any], strips: Sequence[Strip]) -> int:
        rows = []
        for number, strip in enumerate(strips, 1):
            name = f"{STRIPS}/strip-{number}.png"
            write_bytes(out / name, png(contact_sheet(list(strip.frames.values()), gap=0)))
            rows.append(
                {
                    "file": name,
                    "sources": list(strip.frames),
                    "times": strip.times.tolist(),
                    "beliefs": {k: None if np.isnan(v) else v for k, v in strip.beliefs.items()},
                }
                | {k: getattr(strip, k) for k in ("task", "policy", "instruction", "episode", "fault", "success_frame")}
            )
        write_text(out / FILE, to_json(results | {"strips": rows}))
        write(out / REPORT, collect(out))
        print_written(out / FILE)
        return print_written(out / REPORT)


def check_out(out: Path) -> None:
    """Require OUT to be new, or a run's or diagnosis' folder."""
    if any((out / name).is_file() for name in (FILE, "stages.json", "evaluation.json")):
        check_writable(out)
    else:
        check_folder(out)


def read_loops(files: Sequence[Path]) -> dict[str, list[Episode]]:
    """Read the closed-loop episodes of files, by file and surrogate."""
    loops: dict[str, list[Episode]] = {}
    for name, file in zip(short_names(files), files, strict=True):
        places = read_episodes(file)
        is_only_world = list(places) == ["world"]
        loops |= {name if is_only_world else f"{name}, {place}": episodes for place, episodes in places.items()}
    return loops


def short_names(paths: Sequence[Path]) -> list[str]:
    """Shorten each path to its shortest unique end.

    >>> short_names([Path("a/x/data"), Path("b/x/data"), Path("b/y")])
    ['a/x/data', 'b/x/data', 'y']
    """
    all_parts = [path.resolve().parts for path in paths]

    def shortened(parts: tuple[str, ...]) -> str:
        for length in range(1, len(parts) + 1):
            if sum(other[-length:] == parts[-length:] for other in all_parts) == 1:
                return "/".join(parts[-length:])
        return "/".join(parts)

    return [shortened(parts) for parts in all_parts]

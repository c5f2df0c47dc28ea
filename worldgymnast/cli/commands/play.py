"""The commands play and watch: pages that show a world model, and a run, while they work."""

from __future__ import annotations

import importlib.resources
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import tyro
from tyro.conf import Positional

from worldgymnast.cli.checks import check_observed, check_same_actions, check_same_rate
from worldgymnast.cli.command import Command, DatasetCommand, DeviceCommand, OptionalPath, OptionalPositive
from worldgymnast.cli.commands.judge_evaluation import load_judge_with_ledger
from worldgymnast.cli.data_defaults import frames_for
from worldgymnast.cli.origins import cameras_of, check_same_cameras, check_same_state, rule_of, size_in
from worldgymnast.cli.starters import spec_in
from worldgymnast.configs import Between, Positive, Seed, checked
from worldgymnast.episodes import formats
from worldgymnast.episodes.starts import read_frame, read_instructions, read_starts, read_state
from worldgymnast.errors import InputError
from worldgymnast.playground.scenes import EpisodeScenes, Scene, Scenes, StartScenes
from worldgymnast.playground.session import MEMORY, Session
from worldgymnast.playground.turns import Turns
from worldgymnast.playground.visits import MAX_VISITS, Visits
from worldgymnast.playground.watch import Watch
from worldgymnast.protocols import Judge, Policy, WorldModel
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import load_policy, load_world
from worldgymnast.types import Start

if TYPE_CHECKING:
    from worldgymnast.playground.guard import Guard

_WORTH = 1.3
_TIMED = 12
"""Frames from which the speed of imagination is measured."""
_MIB = 1 << 20


@checked(kw_only=True)
class Play(DeviceCommand, DatasetCommand):
    """Open a page to drive a world model: by hand, by a policy, or by logged actions beside the real video.

    The page is for a browser on this machine; the address is printed. Without arguments it opens the starter world
    model, policy and judge on six recorded episodes.

    Attributes:
        world: world-model file; the starter world model if omitted.
        start: picture to start from, or folder of pictures with instructions.
        data: data set folder; its episodes are the starts, and their real videos are shown beside the imagined ones.
        policy: policy file or description (policy.json); the starter policy if omitted, with a world model like the
            starter's.
        judge: judge file; the starter judge if omitted, with a world model like the starter's.
        instruction: sentence for a single picture without a JSON file.
        stride: frames between two that the judge sees; default 0.15 seconds (2 frames in Meta-World).
        sessions: most pages that may be open at a time.
        memory: MiB of model states that all sessions keep together; others are computed again when needed.
        seed: of all random draws.
        port: port of the page on this machine; 0 for a free one.
    """

    world: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[WORLD]")] = ()
    start: OptionalPath = None
    data: OptionalPath = None
    policy: OptionalPath = None
    judge: OptionalPath = None
    instruction: str = ""
    stride: OptionalPositive = None
    sessions: Annotated[int, Between(1, 64)] = MAX_VISITS
    memory: Positive = MEMORY // _MIB * 2
    seed: Seed = 0
    port: Annotated[int, Between(0, 65535)] = 0

    def __post_init__(self) -> None:
        if len(self.world) > 1:
            raise InputError(f"WORLD: found {len(self.world)} files. Give one; pictures follow --start, data --data")
        if self.start is not None and self.data is not None:
            raise InputError("--start and --data: found both. Give one of them")
        if self.instruction and self.start is None:
            raise InputError("--instruction: needs --start PICTURE; other starts have instructions of their own")

    def __call__(self) -> int:
        """Serve the page until Ctrl-C."""
        server = _server_module()
        self.prepare()
        app, speed, count = self.build()
        plural = "start" if count == 1 else "starts"
        served = server.Server(app, self.port)
        print(f"{count} {plural}. This machine imagines {speed:.0f} frames a second on one page.")
        _serve(served)
        return 0

    def build(self) -> tuple[Guard, float, int]:
        """Load everything; returns the application, the frames a second of one session, and the number of starts."""
        path = self.world[0] if self.world else starter("world")
        world = load_world(path, self.device)
        policy, policy_path = self._policy(path, world)
        judge, judge_path = self._judge(world)
        check_same_cameras(path, policy_path, judge_path, requested=self.image_key)
        scenes = self._scenes(path, world, policy_path, judge_path)
        stride, limit = self.stride or frames_for(2, world.fps), self.memory * _MIB // self.sessions
        turns = Turns()

        def make(scene: Scene, number: int) -> Session:
            seed = self.seed * 1_000_003 + number
            return Session(world, scene, policy=policy, judge=judge, stride=stride, seed=seed, memory=limit, turn=turns)

        first = make(scenes[0], 0)  # reports what does not fit, before a page is opened
        if policy is not None:
            first.choose_actions(first.tree.root)
        speed, parallel = _share_threads(first) if self.device == "cpu" else (_speed(first), 1)
        turns.widen(parallel)
        names = {"world": path.stem if self.world else "Starter world model"}
        app = _server_module().Playground(Visits(scenes, make, self.sessions), names).app()
        return app, speed, len(scenes)

    def _policy(self, world_path: Path, world: WorldModel) -> tuple[Policy | None, Path | None]:
        path = self.policy or (starter("policy") if _is_like_starter(world) else None)
        if path is None:
            return None, None
        policy = load_policy(path, self.device)
        check_same_actions(path, policy.action_spec, world_path, world.action_spec)
        check_observed(path, policy, world_path, world)
        check_same_state(path, world_path)
        return policy, path

    def _judge(self, world: WorldModel) -> tuple[Judge | None, Path | None]:
        path = self.judge or (starter("judge") if _is_like_starter(world) else None)
        return (None, None) if path is None else (load_judge_with_ledger(path, self.device), path)

    def _scenes(self, path: Path, world: WorldModel, *others: Path | None) -> Scenes:
        rule = rule_of(path, *others, requested=self.resize)
        if self.start is not None:
            return StartScenes(self._starts(self.start, world.frame_size, rule), world.frame_size)
        data = self.data or (_demo() if _is_like_starter(world) else None)
        if data is None:
            raise InputError(
                "--start, --data: both are missing, and the recorded episodes are of another robot or frame size. Give "
                "a picture or a data set of the robot of the world model"
            )
        cameras = self.cameras or cameras_of(path)
        episodes = formats.read(
            data,
            image_key=cameras,
            size=world.frame_size,
            fps=self.fps,
            assumed_fps=world.fps,
            resize=rule or "squash",
        )
        check_same_rate(data, episodes.fps, path, world.fps, is_data=True)
        numbers = formats.episode_numbers(data, len(episodes), cameras)
        return EpisodeScenes(episodes, numbers, world.action_spec, world.frame_size)

    def _starts(self, path: Path, size: tuple[int, int], rule: Any) -> list[Start]:
        if path.is_dir():
            if self.instruction:
                raise InputError(
                    f"--instruction: --start {path} is a folder, and its starts have instructions of their own. Omit "
                    "it; the page's text box changes the sentence"
                )
            return read_starts(path, size, resize=rule)
        frame, sidecar = read_frame(path, size, resize=rule), path.with_suffix(".json")
        if self.instruction or not sidecar.is_file():
            return [Start(frame, self.instruction or "no instruction yet", "")]
        sentences, task = read_instructions(path)
        return [replace(Start(frame, sentence, task), state=read_state(path)) for sentence in sentences]


@checked(kw_only=True)
class WatchRun(Command):
    """Open a page that watches a run while it trains: success, gap, signal, speed, videos and budget.

    Unfinished and killed runs can be watched. Nothing in the folder is changed.

    Attributes:
        run: run folder.
        port: port of the page on this machine; 0 for a free one.
    """

    run: Positional[Path]
    port: Annotated[int, Between(0, 65535)] = 0

    def __call__(self) -> int:
        """Serve the page until Ctrl-C."""
        server = _server_module()
        _serve(server.Server(server.watch_app(Watch(self.run)), self.port))
        return 0


def _is_like_starter(world: WorldModel) -> bool:
    """Whether a world model has the actions and frames of the starter, whose other parts then fit it."""
    path = starter("world")
    spec = spec_in(path)
    return spec is not None and world.action_spec.is_same_kind(spec) and size_in(path) in (None, world.frame_size)


def _demo() -> Path:
    """Folder of the recorded episodes of the starter robot."""
    return Path(str(importlib.resources.files("worldgymnast.playground") / "demo"))


def _share_threads(session: Session) -> tuple[float, int]:
    """Choose what the CPU's threads do; returns the frames a second of one session, and how many imagine in parallel.

    Several threads for one frame where that makes it at least 1.3 times as fast, else one thread for each of several
    sessions.
    """
    threads = torch.get_num_threads()
    together = _speed(session)
    if threads == 1:
        return together, 1
    torch.set_num_threads(1)
    alone = _speed(session)
    if together < _WORTH * alone:
        return alone, threads
    torch.set_num_threads(threads)
    return together, 1


def _speed(session: Session) -> float:
    """Frames a second of one session without a page, after a first frame."""
    still = session.still_action(session.tree.root)
    session.drive(["A"], still)
    began = time.perf_counter()
    for _ in range(_TIMED):
        session.belief(session.drive(["A"], np.asarray(still))[0])
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return _TIMED / (time.perf_counter() - began)


def _server_module() -> Any:
    """The server, which needs the extra "play".

    Raises:
        InputError: a package is missing.
    """
    try:
        import websockets as websockets

        from worldgymnast.playground import server
    except ImportError as error:
        raise InputError(
            f"the page needs the package {error.name or 'starlette'}, which is not installed. Install it: "
            "pip install 'worldgymnast[play]'"
        ) from error
    return server


def _serve(server: Any) -> None:
    """Print the address, and serve until Ctrl-C."""
    print(f"Open {server.url} in a browser on this machine. Ctrl-C ends.", flush=True)
    server.run()

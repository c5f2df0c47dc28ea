"""What RL in a world model costs on 1 to 512 GPUs: a discrete-event simulation of its parts.

Rollout workers, judge, the driver's link, the driver and the learner are stations with queues. A step collects groups;
each is rolled out, sent, judged and unpacked; when all are there, the learner updates. With `--rl.ahead 1` the workers
roll out the next step meanwhile. The parts are in `studies/cost_parts.json`, each with its source: measured, derived or
assumed.

    python -m studies.cost check    the measured rows of docs/how-to/cluster.md beside the simulation
    python -m studies.cost scale    steps an hour and the bottleneck on 8, 64 and 512 GPUs
    python -m studies.cost moves    where the bottleneck goes if a part is another
    python -m studies.cost parts    the numbers that go in
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

PARTS = Path(__file__).with_name("cost_parts.json")
GPUS = (1, 8, 64, 512)
STEPS = 12
"""Simulated steps; the first is left out of the rates."""

Event = Callable[[], None]


class Clock:
    """Runs events in the order of their times."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Event]] = []
        self._count = 0

    def after(self, seconds: float, event: Event) -> None:
        """Run `event` after some seconds."""
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, event))

    def run(self) -> None:
        """Run until no event is left."""
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()


class Station:
    """Servers with one queue, first come, first served.

    Attributes:
        busy: seconds of work done, over all servers.
    """

    def __init__(self, clock: Clock, servers: int) -> None:
        self.clock, self.servers, self.busy = clock, servers, 0.0
        self._free = servers
        self._queue: deque[tuple[float, Event]] = deque()

    def submit(self, seconds: float, then: Event) -> None:
        """Serve a job of that many seconds, then run `then`."""
        self._queue.append((seconds, then))
        self._next()

    def _next(self) -> None:
        while self._free and self._queue:
            seconds, then = self._queue.popleft()
            self._free -= 1
            self.busy += seconds
            self.clock.after(seconds, lambda then=then: self._done(then))

    def _done(self, then: Event) -> None:
        self._free += 1
        then()
        self._next()


class Cores:
    """Processor cores that jobs share equally; a job never gets more than one core.

    Args:
        clock: the clock.
        cores: number of cores.
    """

    def __init__(self, clock: Clock, cores: float) -> None:
        self.clock, self.cores = clock, cores
        self._left: dict[int, list[Any]] = {}
        self._since, self._version, self._count = 0.0, 0, 0

    def submit(self, seconds: float, then: Event) -> None:
        """Compute for that many CPU seconds, then run `then`."""
        self._advance()
        self._count += 1
        self._left[self._count] = [seconds, then]
        self._plan()

    def _rate(self) -> float:
        return min(1.0, self.cores / max(len(self._left), 1))

    def _advance(self) -> None:
        passed = (self.clock.now - self._since) * (self._rate() if self._left else 0.0)
        for job in self._left.values():
            job[0] -= passed
        self._since = self.clock.now

    def _plan(self) -> None:
        self._version += 1
        if self._left:
            version, first = self._version, min(job[0] for job in self._left.values())
            self.clock.after(max(first, 0.0) / self._rate(), lambda: self._finish(version))

    def _finish(self, version: int) -> None:
        if version != self._version:
            return
        self._advance()
        done = [number for number, job in self._left.items() if job[0] <= 1e-9]
        events = [self._left.pop(number)[1] for number in done]
        for event in events:
            event()
        self._plan()


# ---------------------------------------------------------------- against measurement


def simulate_rounds(cores: float, workers: int, cpu: float, sleep: float, groups: int, rounds: int) -> float:
    """Groups a second of workers that compute on shared cores and sleep, in rounds that end together."""
    clock = Clock()
    shared = Cores(clock, cores)
    state = {"queued": 0, "open": 0, "round": 0}

    def begin() -> None:
        if state["round"] == rounds:
            return
        state["round"] += 1
        state["queued"] = state["open"] = groups
        for _ in range(workers):
            take()

    def take() -> None:
        if state["queued"]:
            state["queued"] -= 1
            shared.submit(cpu, lambda: clock.after(sleep, give))

    def give() -> None:
        state["open"] -= 1
        begin() if not state["open"] else take()

    begin()
    clock.run()
    return groups * rounds / clock.now


def check(data: Mapping[str, Any]) -> list[tuple[str, int, float, float]]:
    """Rows of judge, workers, measured and simulated groups a second, on cores that nothing else used."""
    rows = []
    for block in data["blocks"]:
        for workers, cpu, measured in zip(block["workers"], block["cpu_seconds"], block["measured"], strict=True):
            found = simulate_rounds(data["cores"], workers, cpu, block["sleep"], data["groups"], data["rounds"])
            rows.append((block["judge"], workers, measured, found))
    return rows


# ---------------------------------------------------------------- at scale


@dataclass(frozen=True)
class Layout:
    """Who does what.

    Attributes:
        gpus: GPUs for rollouts and updates; the judge's are extra.
        learners: GPUs that update. They are those of the workers, which wait meanwhile, unless `ahead` is 1.
        groups: groups per step.
        ahead: steps that rollouts run ahead, 0 or 1.
        judges: GPUs of the judge.
    """

    gpus: int
    learners: int = 1
    groups: int = 12
    ahead: int = 0
    judges: int = 1

    @property
    def workers(self) -> int:
        """GPUs that roll out."""
        return max(1, self.gpus - self.learners) if self.ahead else self.gpus


@dataclass
class Outcome:
    """Result of a simulation.

    Attributes:
        step_seconds: mean duration of a step.
        used: share of time that each station works.
    """

    step_seconds: float
    used: dict[str, float] = field(default_factory=dict)

    @property
    def bottleneck(self) -> str:
        """The station that works the largest share of time."""
        return max(self.used, key=lambda name: self.used[name])


class Training:
    """Simulates steps of RL.

    Args:
        parts: seconds, bytes and rates by name; see `cost_parts.json`.
        layout: who does what.
        steps: number of steps.
        seed: of the noise.
    """

    def __init__(self, parts: Mapping[str, float], layout: Layout, steps: int = STEPS, seed: int = 0) -> None:
        self.parts, self.layout, self.steps, self.rng = parts, layout, steps, random.Random(seed)
        self.clock = Clock()
        self.workers, self.learner = Station(self.clock, layout.workers), Station(self.clock, 1)
        self.link, self.driver = Station(self.clock, 1), Station(self.clock, 1)
        self.judge = Station(self.clock, layout.judges * int(parts["judge_slots"]))
        self._begun, self._updated = -1, -1
        self._left: dict[int, int] = {}
        self._ends: list[float] = []

    def run(self) -> Outcome:
        """Run all steps; the first is left out of the mean."""
        self._begin(0)
        self.clock.run()
        stations = {"rollouts": self.workers, "update": self.learner, "judge": self.judge}
        stations |= {"driver's link": self.link, "driver": self.driver}
        used = {name: one.busy / one.servers / self.clock.now for name, one in stations.items()}
        return Outcome((self._ends[-1] - self._ends[0]) / (len(self._ends) - 1), used)

    def _begin(self, step: int) -> None:
        """Send weights to every node, and queue the groups of a step and of those ahead."""
        for one in range(self._begun + 1, min(step + self.layout.ahead, self.steps - 1) + 1):
            self._begun, self._left[one] = one, self.layout.groups
            nodes = math.ceil(self.layout.workers / self.parts["gpus_per_node"])
            seconds = nodes * self.parts["weight_bytes"] / self.parts["bandwidth"]
            self.link.submit(seconds, lambda one=one: self._queue(one))

    def _queue(self, step: int) -> None:
        p = self.parts
        frames = p["rollouts"] * p["actions"]
        for _ in range(self.layout.groups):
            seconds = frames / p["frames_per_second"] + p["act_seconds"]
            seconds *= self.rng.lognormvariate(0, p["noise"])
            self.workers.submit(seconds, lambda: self._rolled(step))

    def _rolled(self, step: int) -> None:
        p = self.parts
        judged = p["judge_seconds"] * self.rng.lognormvariate(0, p["noise"])
        unpack: Event = lambda: self.driver.submit(p["driver_seconds"], lambda: self._arrived(step))  # noqa: E731
        send: Event = lambda: self.link.submit(p["result_bytes"] / p["bandwidth"], unpack)  # noqa: E731
        self.judge.submit(judged, send)

    def _arrived(self, step: int) -> None:
        self._left[step] -= 1
        if not self._left[step] and step == self._updated + 1:
            self._update(step)

    def _update(self, step: int) -> None:
        p, layout = self.parts, self.layout
        seconds = p["update_fixed"] + layout.groups * p["update_seconds"] / min(
            layout.learners, layout.groups * p["batches"]
        )
        self.learner.submit(seconds, lambda: self._end(step))

    def _end(self, step: int) -> None:
        self._updated = step
        self._ends.append(self.clock.now)
        if step + 1 < self.steps:
            self._begin(step + 1)
            if not self._left[step + 1]:
                self._update(step + 1)


def layouts(gpus: int) -> dict[str, Layout]:
    """The layouts that are compared on that many GPUs."""
    grown = max(12, 2 * gpus)
    spread = Layout(gpus, learners=gpus, groups=grown, judges=max(1, gpus // 32))
    split = max(1, round(gpus * 0.7))
    return {
        "12 groups, one learner": Layout(gpus, judges=max(1, gpus // 32)),
        "12 groups, all GPUs update": replace(spread, groups=12),
        "2 groups per GPU, one learner": replace(spread, learners=1),
        "2 groups per GPU, all GPUs update": spread,
        "2 groups per GPU, 70 % update, one step ahead": replace(spread, learners=split, ahead=1),
    }


CHANGES: dict[str, dict[str, float]] = {
    "as measured and derived": {},
    "ten guided steps per frame instead of one": {"frames_per_second": 21.2},
    "all weights of the policy sent, not adapters": {"weight_bytes": 15.4e9},
    "a judge that takes ten times as long": {"judge_seconds": 20.0},
    "a policy whose update takes a tenth": {"update_seconds": 1.25, "act_seconds": 0.1},
}
"""Parts that differ, for the question where the bottleneck goes. 21.2 frames/s were measured on an H100."""


def plain(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Values of the parts by name."""
    return {name: float(part["value"]) for name, part in parts.items()}


def main(words: Sequence[str] | None = None) -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "scale", "moves", "parts"))
    parser.add_argument("--parts", type=Path, default=PARTS)
    args = parser.parse_args(words)
    data = json.loads(args.parts.read_text())
    printers = {"check": _print_check, "scale": _print_scale, "moves": _print_moves, "parts": _print_parts}
    printers[args.what](data)


def _print_check(data: Mapping[str, Any]) -> None:
    print("| judge | workers | groups/s, measured | simulated | error |\n|---|---|---|---|---|")
    for judge, workers, measured, found in check(data["check"]):
        print(f"| {judge} | {workers} | {measured:.2f} | {found:.2f} | {found / measured - 1:+.0%} |")


def _print_scale(data: Mapping[str, Any]) -> None:
    parts = plain(data["parts"])
    print("| layout | GPUs | s per step | rollouts/s | per GPU, relative to one | bottleneck | rollout GPUs work |")
    print("|---|---|---|---|---|---|---|")
    one = Training(parts, Layout(1)).run()
    base = 12 / one.step_seconds
    for gpus in GPUS:
        for name, layout in layouts(gpus).items():
            if gpus == 1 and name != "12 groups, one learner":
                continue
            found = Training(parts, layout).run()
            rate = layout.groups / found.step_seconds
            cells = [name, f"{gpus}", f"{found.step_seconds:.0f}", f"{rate * parts['rollouts']:.1f}"]
            cells += [f"{rate / base / gpus:.0%}", found.bottleneck, f"{found.used['rollouts']:.0%}"]
            print(f"| {' | '.join(cells)} |")


def _print_moves(data: Mapping[str, Any]) -> None:
    sizes = GPUS[1:]
    print(f"| part | {' | '.join(f'{gpus} GPUs' for gpus in sizes)} |\n|---|---|---|---|")
    for name, changes in CHANGES.items():
        parts = plain(data["parts"]) | changes
        found = [Training(parts, layouts(gpus)["2 groups per GPU, all GPUs update"]).run() for gpus in sizes]
        print(f"| {name} | {' | '.join(f'{one.step_seconds:.0f} s, {one.bottleneck}' for one in found)} |")


def _print_parts(data: Mapping[str, Any]) -> None:
    print("| part | value | unit | source |\n|---|---|---|---|")
    for name, part in data["parts"].items():
        print(f"| {name} | {part['value']:g} | {part['unit']} | {part['source']} |")


if __name__ == "__main__":
    main()

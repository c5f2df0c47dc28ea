"""What a slow judge costs a step of RL, and how many clips a core turns into questions.

A chat server, a process of its own, answers one question after the other, each so slowly that all questions of a step
take as long as imagining its rollouts does. A step is timed with a judge that answers at once, with this one in whole
batches (nothing overlaps), with rollouts in smaller batches (each is judged while the next is imagined), and with
imagination one step ahead of the update (`--rl.ahead 1`).

    python benchmarks/judging.py
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

import numpy as np
import torch

from worldgymnast.endpoint import EndpointConfig
from worldgymnast.environments import environment
from worldgymnast.judges.prompt import question
from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.protocols import StartSampler
from worldgymnast.recipes.quickstart import QuickstartConfig, starter
from worldgymnast.registry import load_policy, load_world
from worldgymnast.rl.collect import Collector
from worldgymnast.rl.starts import PhotographedStarts
from worldgymnast.rl.trainer import Trainer
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.surrogates.pool import LocalPool
from worldgymnast.types import Clip

ANSWER = (
    b'{"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [{"index": 0, "finish_reason": '
    b'"stop", "message": {"role": "assistant", "content": "Final Score: %d"}}]}'
)


def serve(line: Connection, seconds: float) -> None:
    """Answers a question every `seconds`; tells its port through `line`."""
    one_at_a_time = Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["content-length"]))
            with one_at_a_time:
                time.sleep(seconds)
            text = ANSWER % (sum(asked[-2000:]) % 2)
            self.send_response(200)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    line.send(server.server_port)
    server.serve_forever()


class Slow:
    """A judge behind such a server."""

    def __init__(self, seconds: float):
        ours, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, seconds), daemon=True)
        self.process.start()
        endpoint = EndpointConfig("m", f"http://127.0.0.1:{ours.recv()}/v1", concurrency=16)
        self.judge = VLMJudge(VLMConfig(endpoint, frames=5, pixels=0))

    def __enter__(self) -> VLMJudge:
        return self.judge

    def __exit__(self, *_: object) -> None:
        self.process.terminate()


def steps(photos: StartSampler, judge: VLMJudge, rows: int, ahead: int, count: int) -> tuple[float, float, float]:
    """Seconds that a step takes in all, imagines, and updates; means over `count` steps after one to warm up."""
    config = QuickstartConfig()
    rl = replace(config.finetune.rl, ahead=ahead, rows=rows, resample=0)
    policy, world = load_policy(starter("policy")), load_world(starter("world"))
    imagine = Imagination.of(policy, world, judge, rl.horizon).keyframes_only()
    acting = load_policy(starter("policy"))
    pool = LocalPool(acting, imagine, imagine.verdict_source, rows=rows, temperature=1.0, seed=0)
    collector = Collector(pool, photos, rl, rl.trainer.objective)
    trainer = Trainer(policy, rl.trainer)
    times: list[tuple[float, float, float]] = []
    for step in range(count + 1):
        began, weights = time.perf_counter(), trainer.weights()
        for begun in range(step, step + ahead + 1):
            collector.begin(begun, weights)
        groups, update = collector.finish(step, weights), time.perf_counter()
        trainer.update(groups.groups, torch.Generator().manual_seed(step))
        times.append((time.perf_counter() - began, groups.seconds_imagine, time.perf_counter() - update))
    whole, imagining, updating = np.mean(times[1:], 0)
    return float(whole), float(imagining), float(updating)


def encoding(clips: int, side: int, pixels: int) -> float:
    """Clips of 8 frames of that side that one core turns into questions in a second."""
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (8, side // 8, side // 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    judge = VLMJudge(VLMConfig(EndpointConfig("m", "http://127.0.0.1:1/v1"), pixels=pixels))
    clip = Clip(smooth, "open the drawer")
    began = time.perf_counter()
    for _ in range(clips):
        judge.messages(question(judge.rubric, clip, "", 8))
    return clips / (time.perf_counter() - began)


def table(rows: Sequence[Sequence[str]]) -> None:
    """Prints Markdown."""
    for i, row in enumerate(rows):
        print(f"| {' | '.join(row)} |" + ("\n|" + "---|" * len(row) if i == 0 else ""), flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    count, start = parser.parse_args().steps, QuickstartConfig()
    photos = PhotographedStarts(environment(start.env), 2, start.photograph_layout)
    photos(np.random.default_rng(0), 1)
    rows = [["clips a second and core, 8 frames each", ""]]
    for side, pixels in ((64, 0), (256, 0), (64, 224)):
        shown = f"{side}x{side}" + (f", enlarged to {pixels} or more" if pixels else "")
        rows.append([shown, f"{encoding(200, side, pixels):.0f}"])
    table(rows)
    rl = start.finetune.rl
    with Slow(0.0) as judge:
        base, imagining, updating = steps(photos, judge, rl.rows, 0, count)
    judging = imagining
    print(f"\nimagining {imagining:.1f} s, update {updating:.1f} s, a step with an instant judge {base:.1f} s")
    print(f"the slow judge needs {judging:.1f} s a step\n")
    longer = max(imagining, judging) + updating
    found = [["", "seconds a step", "of the longer of imagining and judging, and the update"]]
    for name, batch, ahead in (
        ("whole batches, nothing overlaps", rl.rows, 0),
        ("batches of 24 rollouts", 24, 0),
        ("one step ahead", rl.rows, 1),
    ):
        with Slow(judging / (rl.starts * rl.group_size)) as judge:
            seconds = steps(photos, judge, batch, ahead, count)[0]
        found.append([name, f"{seconds:.1f}", f"{seconds / longer:.2f}"])
    table(found)


if __name__ == "__main__":
    main()

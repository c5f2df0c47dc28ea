"""Frames a second in the playground, for one or several pages that drive at once, and how long a frame takes.

The server is a process of its own, as `worldgymnast play` starts it; each page is a thread with a WebSocket that asks
for the next frame as soon as it has one (the worst case), or at the world model's own rate. Pictures are received and
not drawn. A frame includes the world model, its belief of success, the judge at every second frame, and the picture.

CPU milliseconds are those of the server alone, so they tell what a machine without other work reaches: one page is
served by one core, several by all.

    python benchmarks/playground.py --sessions 1 2 4
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from websockets.sync.client import connect

from worldgymnast.cli.commands.play import Play
from worldgymnast.playground.server import Server


def serve(line: Connection, world: Path | None, threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    app, _, _ = Play(world=() if world is None else (world,), device=device, sessions=64, seed=0).build()
    server = Server(app)
    line.send(server.url)
    server.run()


def drive(url: str, scene: int, seconds: float, rate: float, waits: list[float], ready: threading.Barrier) -> None:
    """Drives one page; appends the seconds that each frame took."""
    address = url.replace("http:", "ws:") + f"live?scene={scene}"
    rng = np.random.default_rng(scene)
    with connect(address, max_size=None, compression=None) as socket:
        hello = json.loads(socket.recv())
        low, high = ([axis[end] for axis in hello["axes"]] for end in ("low", "high"))
        wait_for_lines(socket)
        ready.wait()
        end, due = time.perf_counter() + seconds, time.perf_counter()
        while (began := time.perf_counter()) < end:
            socket.send(json.dumps({"do": "drive", "lines": ["A"], "action": list(rng.uniform(low, high))}))
            wait_for_lines(socket)
            waits.append(time.perf_counter() - began)
            if rate:
                due = max(due + 1 / rate, time.perf_counter() - 1 / rate)
                time.sleep(max(0.0, due - time.perf_counter()))


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, of all its threads (Linux)."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def wait_for_lines(socket: object) -> None:
    """Receives messages until the one that ends a command."""
    while True:
        message = socket.recv()  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(message, str) and json.loads(message)["is"] == "lines":
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=0.0, help="frames a second that each page asks for; 0 for all")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of the server")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(there, given.world, given.threads, given.device), daemon=True)
    process.start()
    url = here.recv()
    print("| pages | frames a second each | all | ms a frame, median | 95 % within, ms | CPU ms a frame |")
    print("|---|---|---|---|---|---|")
    for count in given.sessions:
        waits: list[list[float]] = [[] for _ in range(count)]
        ready = threading.Barrier(count)
        threads = [
            threading.Thread(target=drive, args=(url, i % 6, given.seconds, given.rate, waits[i], ready))
            for i in range(count)
        ]
        spent = cpu_seconds(process.pid or 0)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent = cpu_seconds(process.pid or 0) - spent
        rates = [len(one) / given.seconds for one in waits]
        every = 1000 * np.concatenate(waits)
        print(
            f"| {count} | {min(rates):.1f} to {max(rates):.1f} | {sum(rates):.1f} | {np.median(every):.0f} | "
            f"{np.quantile(every, 0.95):.0f} | {1000 * spent / len(every):.0f} |",
            flush=True,
        )
    process.terminate()


if __name__ == "__main__":
    main()

"""A chat server that behaves as real ones do on bad days; run as a process of its own.

Its right answer to a question: 1 if the last picture is brighter than the first, else 0. How often a question was asked
decides, with the seed, whether it gets that answer or a fault; `/counts` tells what was sent. It notes whoever comes
back before the time that it named. The model's name chooses what else it does: "unknown" is not there, "locked" wants a
key, "no-picture" and "one-picture" refuse pictures, "blind" passes over them, "several" gives as many choices as asked
for, "slow" takes a tenth of a second, "bare" counts no tokens, "stubborn" says
the same nothing each time.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import random
import re
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

FAULTS = (
    "429", "429 retry-after", "429 retry-after-ms", "408", "409", "500", "503", "reset", "hang", "cut off", "cut body",
    "html", "no choices", "prose", "out of range", "contradictory", "empty",
)  # fmt: skip
MODELS = [{"id": name, "object": "model", "created": 0, "owned_by": "me"} for name in ("m", "several")]
RECOVERS_AFTER = 6
"""Faults in a row at most, for a question that is not doomed."""
ID = re.compile(r"question (\d+)( doomed)?")


class Server:
    """The counts and the faults."""

    def __init__(self, seed: int, share: float, faults: tuple[str, ...] = FAULTS):
        self.seed, self.share, self.faults = seed, share, faults
        self.counts: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.not_before: dict[str, float] = {}

    def fault(self, number: str, doomed: bool) -> str | None:
        """What goes wrong at this attempt at a question."""
        draw = random.Random(f"{self.seed} {number} {self.asked[number]}")
        attempt, self.asked[number] = self.asked[number], self.asked[number] + 1
        if not doomed and (draw.random() >= self.share or attempt % (RECOVERS_AFTER + 1) == RECOVERS_AFTER):
            return None
        return draw.choice(self.faults)

    def answer(self, body: dict[str, Any]) -> tuple[str | None, str, str]:
        """The fault, the right text, and the question's name."""
        text = json.dumps(body["messages"])
        found = ID.search(text)
        assert found is not None
        number = found[1]
        if time.monotonic() < self.not_before.pop(number, 0.0):
            self.counts["came too early"] += 1
        images = pictures(body)
        first, last = (np.asarray(Image.open(io.BytesIO(base64.b64decode(x)))).mean() for x in (images[0], images[-1]))
        return self.fault(number, bool(found[2])), f"I looked.\nFinal Score: {int(last > first)}", number

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: (\d+)", head.lower())
                body = await reader.readexactly(int(length[1])) if length else b""
                if head.startswith(b"GET /counts"):
                    await reply(writer, 200, json.dumps(self.counts).encode())
                elif head.startswith(b"GET /v1/models"):
                    await reply(writer, 200, json.dumps({"object": "list", "data": MODELS}).encode())
                elif refused := refusal(json.loads(body), head):
                    await reply(writer, refused[0], json.dumps({"error": {"message": refused[1]}}).encode())
                elif b'"stubborn"' in body:
                    self.counts["stubborn"] += 1
                    await reply(writer, 200, completion(["I would rather not say."], json.loads(body)))
                elif "question" not in body.decode():  # somebody looks what the server can
                    await reply(writer, 200, completion(["Final Score: 0"], json.loads(body)))
                elif not await self.chat(json.loads(body), writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def chat(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Answers a question, or fails to; False ends the connection."""
        fault, text, number = self.answer(body)
        self.counts["requests"] += 1
        self.counts[fault or "right"] += 1
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault == "hang":
            await asyncio.sleep(30)
            return False
        if fault in ("408", "409", "429", "500", "503"):
            await reply(writer, int(fault), b'{"error": {"message": "a bad day"}}')
            return True
        if fault in ("429 retry-after", "429 retry-after-ms"):
            seconds, name = (1.0, "retry-after: 1") if fault.endswith("after") else (0.2, "retry-after-ms: 200")
            self.not_before[number] = time.monotonic() + 0.95 * seconds
            await reply(writer, 429, b'{"error": {"message": "slow down"}}', name)
            return True
        wrong = {
            "prose": f"The drawer looks open to me, after {self.counts['requests']} looks.",
            "out of range": f"Look {self.counts['requests']}.\nFinal Score: 7",
            "contradictory": f"Final Score: 1\nNo, wait, {self.counts['requests']}.\nFinal Score: 0",
            "empty": "",
        }
        if body["model"] == "slow":
            await asyncio.sleep(0.1)
        count = int(body.get("n") or 1) if body["model"] == "several" else 1
        made = completion([] if fault == "no choices" else [wrong.get(str(fault), text)] * count, body)
        if fault == "cut body":
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(made)}\r\n\r\n".encode() + made[: len(made) // 2])
            await writer.drain()
            return False
        cut = made[: len(made) // 2] if fault == "cut off" else b"<html>log in</html>" if fault == "html" else made
        await reply(writer, 200, cut, kind="text/html" if fault == "html" else "application/json")
        return True


def pictures(body: dict[str, Any]) -> list[str]:
    """The pictures in a question."""
    return re.findall(r"base64,([A-Za-z0-9+/=]+)", json.dumps(body["messages"]))


def refusal(body: dict[str, Any], head: bytes) -> tuple[int, str] | None:
    """Status and words with which a question is turned down for good."""
    shown, key = len(pictures(body)), re.search(rb"authorization: bearer (\S+)", head, re.IGNORECASE)
    match body["model"]:
        case "unknown":
            return 404, "The model `unknown` does not exist"
        case "locked" if key is None or key[1] != b"sk-right":
            return 401, f"Incorrect API key provided: {key[1].decode() if key else 'none'}"
        case "no-picture" if shown:
            return 400, "this model takes no images"
        case "one-picture" if shown > 1:
            return 400, "At most 1 image(s) may be provided in one request"
    return None


def completion(texts: list[str], body: dict[str, Any]) -> bytes:
    """A chat completion in OpenAI's form."""
    read = 100 + (0 if body["model"] == "blind" else 50 * len(pictures(body)))
    choices = [
        {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": read, "completion_tokens": 10, "total_tokens": read + 10}
    made: dict[str, Any] = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}
    return json.dumps(made | ({} if body["model"] == "bare" else {"usage": usage})).encode()


async def reply(
    writer: asyncio.StreamWriter, status: int, body: bytes, extra: str = "", kind: str = "application/json"
) -> None:
    """Writes a whole reply."""
    more = f"{extra}\r\n" if extra else ""
    writer.write(f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode())
    writer.write(body)
    await writer.drain()


async def main(seed: int, share: float, *without: str) -> None:
    """Serves on a free port, which it prints, until its standard input ends; the faults named last never happen."""
    answering = Server(seed, share, tuple(fault for fault in FAULTS if fault not in without))
    server = await asyncio.start_server(answering.handle, "127.0.0.1", 0, limit=2**24, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)  # connections that hang need no farewell


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:]))

"""Fuzz every parser of the package: only `InputError` may be raised.

A target writes a small valid input, whose files are then damaged repeatedly and read as a user would.

    python tests/support/fuzzing.py --seconds 60              # every target for a minute
    python tests/support/fuzzing.py --only rlds --seed 7      # one of them, from another seed
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import foreign_data as foreign
import torch
from PIL import Image

from worldgymnast.actions import ActionSpecMismatch, metaworld_spec
from worldgymnast.completions import UnusableReply, extract_picture, read_reply
from worldgymnast.episodes import formats
from worldgymnast.episodes.check import check
from worldgymnast.episodes.starts import read_starts
from worldgymnast.errors import InputError
from worldgymnast.files import read_json, read_json_lines
from worldgymnast.judges.prompt import RUBRICS, parse, rubric
from worldgymnast.ledger import Ledger
from worldgymnast.pictures import open_picture
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.registry import Manifest, load_judge, load_policy, save_component
from worldgymnast.replies import answer_text
from worldgymnast.report.collect import collect
from worldgymnast.run import Run
from worldgymnast.worldmodel.published import read_checkpoint

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, -(2**70), 1e300, 1e-300, float("nan"), float("inf"), "", "x",
    "no", "../..", "a\0b", "{x:099999999d}", [], [None], [[1]], {}, {"a": None}, "9" * 400, ["x"] * 50,
]  # fmt: skip
WORDS = [
    b"null", b"NaN", b"-1", b"1e999", b"[" * 200, b"{", b"\x00", b"\xff\xfe", b"\xe2\x80\xa8", b"99999999999", b'"',
    b"\n",
]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        seed: writes a valid input into an empty folder.
        attempt: reads the folder.
        suffixes: of the files to damage; all files without it.
    """

    seed: Callable[[Path], object]
    attempt: Callable[[Path], object]
    suffixes: tuple[str, ...] = ()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four faults in them."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        if rng.random() < 0.4 and (changed := _other_value(data, rng)) is not None:
            data = changed
        else:
            data = _other_bytes(data, rng)
    return data


def _other_bytes(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    other = rng.randrange(len(data) + 1)
    match rng.randrange(6):
        case 0:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + rng.choice(WORDS) + data[at:]
        case 3:
            return data[: min(at, other)] + data[max(at, other) :]
        case 4:
            return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at + 8 :]
        case _:
            return data[:at] + data[other : other + 64] + data[at:]


def _other_value(data: bytes, rng: random.Random) -> bytes | None:
    """JSON, JSON lines or the header of safetensors with one value exchanged or removed; None for other files."""
    head, body = (data[:8], data[8:]) if data[8:9] == b"{" else (b"", data)
    if head:
        size = int.from_bytes(head, "little")
        text, rest = body[:size], body[size:]
    else:
        text, rest = body, b""
    if text[:1] not in (b"{", b"["):
        return None
    lines = [text] if head else text.split(b"\n")
    index = 0 if head or b"\n " in text else rng.randrange(len(lines))
    try:
        found = json.loads(text if b"\n " in text else lines[index])
    except ValueError:
        return None
    places = list(_places(found))
    if not places:
        return None
    holder, key = rng.choice(places)
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(ODD)
    made = json.dumps(found).encode()
    if head:
        return len(made).to_bytes(8, "little") + made + rest
    return made if b"\n " in text else b"\n".join([*lines[:index], made, *lines[index + 1 :]])


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])


def fuzz(target: Target, root: Path, rng: random.Random, seconds: float) -> tuple[int, dict[str, tuple[int, bytes]]]:
    """How many inputs were tried, and each kind of fault: how often, and an input that has it."""
    target.seed(root)
    files = sorted(p for p in root.rglob("*") if p.is_file() and (not target.suffixes or p.suffix in target.suffixes))
    whole = {path: path.read_bytes() for path in files}
    tried, counts, examples = 0, Counter[str](), {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        path = rng.choice(files)
        data = damaged(whole[path], rng)
        path.write_bytes(data)
        tried += 1
        try:
            target.attempt(root)
        except (InputError, ActionSpecMismatch) as error:
            if "\n" in str(error):
                counts["message of several lines"] += 1
                examples["message of several lines"] = data
        except Exception as error:  # noqa: BLE001 - what else comes out is what is looked for
            place = next(f for f in reversed(traceback.extract_tb(error.__traceback__)) if "worldgymnast" in f.filename)
            kind = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:80]!r}"
            counts[kind] += 1
            examples[kind] = data
        path.write_bytes(whole[path])
    return tried, {kind: (counts[kind], examples[kind]) for kind in counts}


# ------------------------------------------------------------------------------------------------------ the targets


def _data(root: Path) -> None:
    check(root)
    formats.read(root, size=16)


def _picture(root: Path) -> None:
    for path in root.iterdir():
        open_picture(path.read_bytes(), path.name)


def _pictures(root: Path) -> None:
    image = Image.fromarray(foreign.frame(1, 2, 24, 24))
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
        image.save(root / f"a.{kind.lower()}", kind)


def _starts(root: Path) -> None:
    Image.fromarray(foreign.frame(1, 2, 24, 24)).save(root / "a.png")
    (root / "a.json").write_text(json.dumps({"instruction": "open the drawer", "task": "drawer-open"}))


def _json(root: Path) -> None:
    (root / "a.json").write_text(json.dumps({"fps": 10, "names": ["a", "b"], "deep": {"er": [1, 2.5, None]}}))


def _read_json(root: Path) -> None:
    read_json(root / "a.json")
    read_json_lines(root / "a.json")


def _answers(root: Path) -> None:
    (root / "a.txt").write_text(
        "<think>It could be 0 or 1.</think>\nThe drawer is open (2 of 3 steps).\n**Final Score (0-1):** $\\boxed{1}$\n"
        '```json\n{"score": "0.5"}\n```\n| Score | 1/2 | 50 % | 0,5 |'
    )


def _read_answer(root: Path) -> None:
    text = (root / "a.txt").read_bytes().decode("utf-8", "replace")
    for version in RUBRICS:
        with contextlib.suppress(UnusableReply):  # no verdict
            parse(text, rubric(version))


def _reply(root: Path) -> None:
    token = {"token": "1", "logprob": -0.1, "bytes": [49], "top_logprobs": [{"token": "0", "logprob": -2.3}]}
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "Final Score: 1"},
        "logprobs": {"content": [token]},
    }
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    (root / "a.json").write_text(json.dumps({"id": "x", "choices": [choice], "usage": usage}))


def _read_reply(root: Path) -> None:
    with contextlib.suppress(UnusableReply):  # counted as a failed judgement
        reply = read_reply((root / "a.json").read_bytes(), True)
        for choice in reply.choices:
            with contextlib.suppress(UnusableReply):
                answer_text(choice)
        extract_picture(reply)


def _judges(root: Path) -> None:
    vlm = {"kind": "vlm", "model": "m", "endpoint": {"url": "http://127.0.0.1:1/v1"}}
    (root / "vlm.json").write_text(json.dumps(vlm))


def _component(root: Path) -> None:
    torch.manual_seed(0)
    config = SmallVLAConfig()
    save_component(root / "p.safetensors", SmallVLA(config, metaworld_spec(3)), Manifest("test", 0, ""))


def _run(root: Path) -> None:
    with Run(root / "run", {"steps": 2, "seed": 0}) as run:
        for step in range(2):
            run.log(step, {"reward": 0.5, "loss": 1.0})
        run.finish({"reward": 0.5})


def _checkpoint(root: Path) -> None:
    torch.save({"ema": {"x_proj.weight": torch.zeros(2, 2), "b": torch.ones(3)}, "step": 3}, root / "a.pt")


def _ledger(root: Path) -> None:
    ledger = Ledger(root / "ledger.sqlite")
    ledger.store("question", {0: "1"})
    ledger.close()


def _read_ledger(root: Path) -> None:
    ledger = Ledger(root / "ledger.sqlite")
    try:
        ledger.answers("question")
        ledger.total()
    finally:
        ledger.close()


def _rlds(root: Path) -> None:
    from test_field_rlds import seed_rlds

    seed_rlds(root)


def _worldgym(root: Path) -> None:
    from test_field_worldgym import seed_worldgym

    seed_worldgym(root)


def _in_parquet(root: Path) -> None:
    def images(episode: int, count: int) -> Any:
        import pyarrow as pa

        blobs = [{"bytes": foreign.png(foreign.frame(episode, i)), "path": None} for i in range(count)]
        return pa.array(blobs, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))

    foreign.v3(root, (2, 3), images=images)


TARGETS = {
    "lerobot v2.1": Target(lambda root: foreign.v21(root, (2, 3)), _data, (".json", ".jsonl")),
    "lerobot v2.1 files": Target(lambda root: foreign.v21(root, (2, 3)), _data),
    "lerobot v3.0": Target(lambda root: foreign.v3(root, (2, 3)), _data),
    "lerobot v3.0 pictures": Target(_in_parquet, _data, (".parquet", ".json")),
    "rlds": Target(_rlds, _data),
    "worldgym": Target(_worldgym, _data),
    "pictures": Target(_pictures, _picture),
    "starts": Target(_starts, lambda root: read_starts(root, 16)),
    "json": Target(_json, _read_json),
    "answers": Target(_answers, _read_answer),
    "replies": Target(_reply, _read_reply),
    "judge description": Target(_judges, lambda root: load_judge(root / "vlm.json")),
    "component": Target(_component, lambda root: load_policy(root / "p.safetensors")),
    "run folder": Target(_run, lambda root: collect(root / "run"), (".json", ".jsonl")),
    "published checkpoint": Target(_checkpoint, lambda root: read_checkpoint(root / "a.pt")),
    "ledger": Target(_ledger, _read_ledger),
}


def main() -> int:
    """Fuzzes the targets, prints a table, and writes an input of each kind of fault to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", choices=list(TARGETS), nargs="*", default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzzed")
    args = parser.parse_args()
    sys.stderr = io.StringIO()  # the readers' notes; faults are printed on stdout
    total, faults = 0, 0
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            tried, found = fuzz(TARGETS[name], Path(folder), random.Random(f"{name}{args.seed}"), args.seconds)
        total, faults = total + tried, faults + len(found)
        print(f"{name}: {tried} inputs, {len(found)} kinds of fault", flush=True)
        for index, (kind, (count, data)) in enumerate(found.items()):
            args.keep.mkdir(parents=True, exist_ok=True)
            (args.keep / f"{name.replace(' ', '-')}-{index}").write_bytes(data)
            print(f"    {count} x {kind}", flush=True)
    print(f"{total:,} inputs, {faults} kinds of fault")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())

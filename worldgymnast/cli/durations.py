"""Durations in seconds on the command line: `--rl.horizon 6s` instead of 80 actions.

A value such as 6s or 0.5s is accepted by every flag that counts actions or frames over time. It is converted with the
rate of the command's world model, else of its policy, its data or its environment, in this order. Horizons become
whole looks of the policy. What each duration became is printed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from worldgymnast.cli.fields import path_of, value_at, with_value
from worldgymnast.errors import InputError

FIELDS = ("horizon", "length", "lengths", "stride", "late", "drift", "chunk", "execute", "window", "after-success")
"""Last parts of the flags that accept seconds."""
_LOOKS = ("horizon", "lengths", "length")
"""Those that a policy fills with whole looks."""
_SECONDS = re.compile(r"(\d+(?:\.\d*)?|\.\d+)s")
_PLACEHOLDER = "24"
"""Value while the rate is unknown; every such flag accepts it."""

Config = TypeVar("Config")
Seconds = Mapping[str, tuple[str, ...]]
"""Values as given by flag, some of them in seconds."""


@dataclass(frozen=True)
class Timing:
    """Rate of a command's actions.

    Attributes:
        rate: actions per second.
        chunk: actions that the policy executes per look, 1 without a policy.
        source: what has this rate, for messages.
    """

    rate: float
    chunk: int
    source: str


def split_seconds(words: Sequence[str]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Replace values in seconds by a placeholder; return the new words, and the values of these flags as given.

    >>> split_seconds(["--rl.horizon", "6s", "--out", "6s"])
    (['--rl.horizon', '24', '--out', '6s'], {'--rl.horizon': ('6s',)})
    """
    others, given, flag = list[str](), dict[str, list[str]](), ""
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            flag = name.replace("_", "-") if is_duration(name.replace("_", "-")) else ""
            shown, head = (value, f"{name}=") if equals else ("", "")
        else:
            shown, head = word, ""
        if flag and shown and (_SECONDS.fullmatch(shown) or shown.isdecimal()):
            given.setdefault(flag, []).append(shown)
            word = f"{head}{_PLACEHOLDER}" if _SECONDS.fullmatch(shown) else word
        elif shown:
            flag = ""  # a positional argument
        others.append(word)
    return others, {
        name: tuple(values) for name, values in given.items() if any(_SECONDS.fullmatch(value) for value in values)
    }


def is_duration(flag: str) -> bool:
    """Return whether a flag accepts seconds."""
    name = flag.rpartition(".")[2].lstrip("-")
    return flag.startswith("--") and (name in FIELDS or name.rpartition("-")[2] in FIELDS)


def to_actions(seconds: float, timing: Timing, is_looks: bool = False) -> int:
    """Convert seconds to a number of actions, at least 1, or to the nearest number of whole looks.

    >>> to_actions(6, Timing(80 / 6, 2, "")), to_actions(0.5, Timing(30, 4, ""), is_looks=True)
    (80, 16)
    """
    unit = timing.chunk if is_looks else 1
    return max(1, round(seconds * timing.rate / unit)) * unit


def resolve_all(command: Config, given: Seconds) -> Config:
    """Return the command with its durations in actions, those of a look first, and print them."""
    looks = {flag: values for flag, values in given.items() if flag.endswith(("execute", "chunk"))}
    if looks:
        command = resolve(command, looks, timing_of(command))
    others = {flag: values for flag, values in given.items() if flag not in looks}
    return resolve(command, others, timing_of(command)) if others else command


def resolve(command: Config, given: Seconds, timing: Timing) -> Config:
    """Return the command with these durations in actions, and print them."""
    for flag, values in given.items():
        name = flag.rpartition(".")[2].lstrip("-")
        numbers = tuple(_number(flag, value, timing, name in _LOOKS) for value in values)
        shown = ", ".join(
            f"{value} is {number} actions ({number / timing.rate:.3g} s)"
            for value, number in zip(values, numbers, strict=True)
        )
        print(f"{flag}: {shown} at {timing.rate:g} per second, the rate of {timing.source}", flush=True)
        path = path_of(command, flag)
        is_several = isinstance(value_at(command, path), tuple)
        command = with_value(command, path, numbers if is_several else numbers[0])
    return command


def _number(flag: str, value: str, timing: Timing, is_looks: bool) -> int:
    if match := _SECONDS.fullmatch(value):
        seconds = float(match[1])
        if not seconds:
            raise InputError(f"{flag}: found {value}, expected more than 0 seconds")
        return to_actions(seconds, timing, is_looks)
    return int(value)


def timing_of(command: Any) -> Timing:
    """Return the rate of a command's actions, from its world model, policy, data or environment.

    Raises:
        InputError: none of them states a rate.
    """
    from worldgymnast.cli.starters import spec_in
    from worldgymnast.recipes.quickstart import starter
    from worldgymnast.registry import load_policy
    from worldgymnast.weights import read_header

    policy = _policy(command) or (starter("policy") if _has(command, "policy") else None)
    world = getattr(command, "world", None) or getattr(command, "begin_with", None)
    if world is None and _has(command, "world"):
        world = starter("world")
    chunk = _executed(command, load_policy(policy, is_tested=False).chunk) if policy else 1
    if isinstance(world, Path) and "fps" in (metadata := read_header(world).metadata):
        return Timing(float(metadata["fps"]), chunk, str(world))
    if policy is not None and (spec := spec_in(policy)) is not None and spec.rate:
        return Timing(spec.rate, chunk, str(policy))
    if (data := getattr(command, "data", ())) and (rate := _data_rate(data[0], getattr(command, "fps", None))):
        return Timing(rate, chunk, str(data[0]))
    env = getattr(command, "env", None) or getattr(getattr(command, "config", None), "env", None)
    if (spec := getattr(env, "action_spec", None)) is not None and spec.rate:
        return Timing(spec.rate, chunk, "the real environment")
    raise InputError(
        "seconds: no world model, policy or data set of this command states a rate. Give a number of actions"
    )


def _has(command: Any, name: str) -> bool:
    return any(field.name == name for field in fields(command))


def _policy(command: Any) -> Path | None:
    """Return the first policy file of a command."""
    files = [getattr(command, name, None) for name in ("policy", "before")]
    files += list(getattr(command, "policies", ()))[:1]
    return next((file for file in files if isinstance(file, Path)), None)


def _executed(config: Any, chunk: int) -> int:
    """Return the actions executed per look: the smallest "execute" in a config, or the chunk."""
    own = [chunk]
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "execute" and isinstance(value, int):
            own.append(value)
        elif is_dataclass(value):
            own.append(_executed(value, chunk))
    return min(own)


def _data_rate(path: Path, fps: float | None) -> float | None:
    """Return the rate at which a data set is read."""
    from worldgymnast.episodes.formats import detect, read
    from worldgymnast.episodes.lerobot_layout import read_layout

    if fps is not None:
        return fps
    if detect(path).startswith("lerobot"):
        return read_layout(path, "all").robot_fps
    return read(path).fps

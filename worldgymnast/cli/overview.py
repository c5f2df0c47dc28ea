"""The table of commands, and help without their modules.

Standard library only, so that `worldgymnast --help` is fast.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """Arguments, summary, and behavior after an interruption of a command."""

    arguments: str
    summary: str
    when_rerun: str = ""


RESUMES, RESTARTS = "resumes", "restarts"
GROUPS: dict[str, dict[str, Entry]] = {
    "Start here": {
        "doctor": Entry("", "check what this machine can run and what is missing"),
        "check-env": Entry("REF", "check a real environment: what it is, what is missing or wrong"),
        "play": Entry("[WORLD]", "drive a world model in the browser, by hand or by a policy"),
        "plan": Entry("", "compute the memory that rl takes on its device"),
        "quickstart": Entry(
            "[ROBOT]", "finetune the starter policy in the starter world model, then evaluate", RESUMES
        ),
        "reproduce": Entry("PRESET", "run the whole method from scratch, stage by stage", RESUMES),
    },
    "Data": {
        "record": Entry("PRESET", "record episodes: scripted experts, noisy experts, random play", RESTARTS),
        "record-policy": Entry("POLICY", "record labelled rollouts of a policy", RESTARTS),
        "data check": Entry("PATH", "check a data set, file by file"),
        "data convert": Entry("SOURCE TARGET", "convert LeRobot v2.1, RLDS or WorldGym to LeRobot v3.0", RESTARTS),
        "data add": Entry("DATA MORE...", "merge data sets, such as new recordings of the same robot", RESTARTS),
        "label": Entry("DATA", "label successes: by hand, by judges, from a column or CSV", RESUMES),
        "scenes photograph": Entry("TARGET", "photograph new layouts, each with an instruction", RESUMES),
        "scenes distract": Entry("SOURCE TARGET", "add unrelated objects to scenes", RESUMES),
        "scenes propose": Entry("SOURCE TARGET", "write new instructions for scenes", RESUMES),
        "scenes plate": Entry("DATA...", "estimate a camera's empty background, for scenes distract"),
    },
    "Train": {
        "sft": Entry("[KIND] DATA...", "train a policy by imitating demonstrations", RESUMES),
        "train-world": Entry("[SIZE] DATA...", "train a world model on all logged episodes", RESUMES),
        "distill": Entry("DATA...", "distill a multi-step world model into a single-step one", RESUMES),
        "train-judge": Entry("DATA...", "train a success judge on labelled episodes", RESUMES),
        "rl": Entry("PRESET", "finetune a policy inside a world model", RESUMES),
        "adapt": Entry("", "finetune a policy for one scene, from one frame and one instruction", RESUMES),
        "dyna": Entry("", "alternate real rollouts, world model and judge updates, and RL", RESUMES),
        "iter-sft": Entry("", "baseline: imitate imagined successes, round by round", RESUMES),
        "rl-simulator": Entry("PRESET", "baseline: the same RL in a perturbed simulator", RESUMES),
        "import-world": Entry("CHECKPOINT", "import a published WorldGym checkpoint"),
        "import-policy": Entry("CHECKPOINT", "describe a published OpenVLA, SmolVLA, pi0 or pi0.5"),
        "export-policy": Entry("POLICY", "write a finetuned policy in the layout of its base"),
        "push": Entry("FILE OWNER/NAME", "upload a component with its card to the Hugging Face Hub"),
    },
    "Judge": {
        "judge vlm": Entry("MODEL", "use a vision-language model behind a server as a judge"),
        "judge local": Entry("MODEL", "use a vision-language model in this process as a judge"),
        "judge foreseen": Entry("", "use the world model's success head as a judge"),
        "judge cascade": Entry("FIRST THEN", "ask a cheap judge first, and another where it is unsure"),
        "judge ensemble": Entry("JUDGE...", "combine several judges"),
        "judge calibrate": Entry("JUDGE", "measure a judge against labels and choose its thresholds"),
        "judge compare": Entry("A B", "compare two judges on the same clips"),
    },
    "Evaluate": {
        "evaluate": Entry("BEFORE [AFTER]", "score a policy for real, or compare two on the same layouts", RESUMES),
        "eval-world": Entry("WORLD", "measure how far a world model can be trusted"),
        "diagnose": Entry("[DATA...]", "locate wrong verdicts: judge, frame encoding or dynamics"),
        "agree": Entry("POLICY...", "correlate imagined with real success over many policies", RESUMES),
        "best-of": Entry("POLICY", "evaluate planning with the world model at deployment", RESUMES),
        "report": Entry("RUN", "write an HTML report of a run"),
        "export-rerun": Entry("DATA|RUN", "write episodes beside imagination for the Rerun viewer"),
        "watch": Entry("RUN", "watch a run in the browser while it trains"),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}
FAMILIES = {"data": "data sets", "scenes": "start scenes", "judge": "judges"}
"""First words of two-word commands, and their subject."""
EXAMPLE = "worldgymnast rl metaworld --rl.group-size 4 --out runs/rl"
_WIDTH = 28
"""Characters of the left column."""


def help_for(words: list[str]) -> str:
    """Return the help or version text, or "" for a command."""
    if not words or words[0] in ("-h", "--help", "help"):
        return overview()
    if words[0] in ("-V", "--version"):
        from worldgymnast import __version__

        return f"worldgymnast {__version__}"
    if (family := words[0]) in FAMILIES and words[1:] in (["-h"], ["--help"], ["help"]):
        usage = f"usage: worldgymnast {family} COMMAND [ARGUMENTS] [--flags]"
        return "\n".join([usage, "", *_lines(commands_of(family))])
    return ""


def commands_of(family: str) -> dict[str, Entry]:
    """Return the two-word commands that start with `family`."""
    return {name: entry for name, entry in COMMANDS.items() if name.startswith(f"{family} ")}


def overview() -> str:
    """Return the text of `worldgymnast --help`."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    lines = [
        f"{bold}worldgymnast{plain}: finetune robot policies by reinforcement learning in a learned world model",
        f"{bold}Usage{plain}  worldgymnast COMMAND [ARGUMENTS] [--flags]",
    ]
    for group, commands in GROUPS.items():
        lines += ["", f"{bold}{group}{plain}", *_lines(_collapsed(commands))]
    lines += [
        "",
        f"{bold}Flags of every command{plain}",
        _line("--help", "list all flags with their defaults"),
        _line("--traceback", "show errors with their traceback"),
        _line("--tracker wandb", "also log runs to Weights & Biases (TensorBoard is always written)"),
        _line("--allow-key VAR[@HOST]", "let judge files send this API key to their server"),
        "",
        f"{bold}Presets{plain}  metaworld: six tasks; quickstart: one seed, fewer episodes; debug: one minute",
        f"{bold}Example{plain}  {EXAMPLE}",
        "Interrupted training and evaluation resume when rerun; record and data convert start over.",
    ]
    return "\n".join(lines)


def _collapsed(commands: Mapping[str, Entry]) -> dict[str, Entry]:
    """Merge the two-word commands of each family into one entry."""
    merged: dict[str, Entry] = {}
    for name, entry in commands.items():
        family, _, member = name.partition(" ")
        if not member:
            merged[name] = entry
        elif family not in merged:
            members = ", ".join(known.partition(" ")[2] for known in commands_of(family))
            merged[family] = Entry("COMMAND", f"{FAMILIES[family]}: {members}")
    return merged


def _lines(commands: Mapping[str, Entry]) -> list[str]:
    return [_line(f"{name} {entry.arguments}", entry.summary) for name, entry in commands.items()]


def _line(left: str, right: str) -> str:
    return f"  {left.rstrip():<{_WIDTH}} {right}"


def preset_help(name: str, presets: Mapping[str, Callable[[], Any]]) -> str:
    """Return the introduction to help without a preset."""
    lines = [f"  {preset:<12}{_summary(make)}" for preset, make in presets.items()]
    head = f"PRESET comes first; it names a set of defaults. Example: worldgymnast {name} debug --help"
    return "\n".join([head, *lines, f"Defaults below: {next(iter(presets))}.", ""])


def size_help(name: str, sizes: Mapping[str, Callable[[], Any]]) -> str:
    """Return the introduction to help without the first argument: a size, or a kind."""
    lines = [f"  {size:<22}{_summary(make)}" for size, make in sizes.items()]
    word = COMMANDS[name].arguments.split()[0].strip("[]")
    data = "DATA " if "DATA" in COMMANDS[name].arguments else ""
    head = f"{word} may come first. Example: worldgymnast {name} {list(sizes)[1]} {data}--out RUN"
    return "\n".join([head, *lines, f"Defaults below: {next(iter(sizes))}.", ""])


def _summary(make: Callable[[], Any]) -> str:
    """Return the first line of a preset's docstring, as a description of what it returns."""
    return (make.__doc__ or "").partition("\n")[0].removeprefix("Return ").rstrip(".")


def join(words: Iterable[str]) -> str:
    """Join alternatives with commas and "or".

    >>> join(["cpu", "cuda", "mps"])
    'cpu, cuda or mps'
    """
    *head, last = words
    return f"{', '.join(head)} or {last}" if head else last

"""Ctrl-C ends every command with one line and exit code 130, however the command was waiting."""

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from episode_builders import episodes
from run_builders import seed_run

from worldgymnast.episodes import lerobot


def _heed_sigint() -> None:
    """A command in the background of a shell inherits that SIGINT is ignored; so would these tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupt(*words: str, when: str) -> tuple[int, str, str]:
    """Send one SIGINT once a line of output matches `when` and its page answers; returns code and outputs."""
    command = [sys.executable, "-m", "worldgymnast", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, preexec_fn=_heed_sigint
    ) as process:
        assert process.stdout is not None
        output = next((line for line in iter(process.stdout.readline, "") if re.search(when, line)), None)
        assert output is not None, process.communicate()[1]
        if address := re.search(r"http://\S+", output):
            with urllib.request.urlopen(address[0], timeout=60):  # the server runs, and handles signals
                pass
        process.send_signal(signal.SIGINT)
        try:
            rest, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, output + rest, errors


def play(tmp_path: Path) -> tuple[str, ...]:
    return "play", "--threads", "1"


def watch(tmp_path: Path) -> tuple[str, ...]:
    return "watch", str(seed_run(tmp_path))


def label(tmp_path: Path) -> tuple[str, ...]:
    lerobot.write(tmp_path / "data", episodes(2))
    return "label", str(tmp_path / "data"), "--by-hand", "--out", str(tmp_path / "labels.jsonl")


@pytest.mark.server
@pytest.mark.parametrize(
    ("command", "advice"), [(play, ""), (watch, ""), (label, " Rerun the same command to resume.")]
)
def test_a_page_ends_like_every_command(
    command: Callable[[Path], tuple[str, ...]], advice: str, tmp_path: Path
) -> None:
    code, _, errors = interrupt(*command(tmp_path), when="Ctrl-C ends")
    assert (code, errors) == (130, f"worldgymnast: Stopped.{advice}\n")

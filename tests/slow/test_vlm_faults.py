"""Thousands of judgements by a server that goes wrong in every way it can.

For ten thousand: WORLDGYMNAST_JUDGEMENTS=10000 python -m pytest -s tests/slow/test_vlm_faults.py
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import pytest
from servers import Faulty, brightening, faulty

from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.types import Clip

COUNT = int(os.environ.get("WORLDGYMNAST_JUDGEMENTS", "1000"))

NAMES = {
    "right": "answered", "429 retry-after": "429", "429 retry-after-ms": "429", "reset": "connection",
    "cut body": "connection", "hang": "timed out", "html": "no chat completion", "prose": "no score",
}  # fmt: skip
"""What the client calls what the server did, where it has another name for it."""


def judged(
    clips: Sequence[Clip], truth: Sequence[float], server: Faulty, **endpoint: object
) -> tuple[Counter[str], Counter[str], int]:
    """What the client counted, what the server sent in the client's words, and how many requests reached the server.

    Whatever goes wrong, every verdict is the true one, save of questions that never get an answer.
    """
    judge = VLMJudge(VLMConfig(server.endpoint(concurrency=64, **endpoint), pixels=8))
    for clip, verdict, true in zip(clips, judge.score(clips), truth, strict=True):
        if "doomed" in clip.instruction:
            assert verdict.score is None
            assert verdict.error
        else:
            assert verdict.score == true, verdict.error
    sent = server.counts()
    print(sent)  # the table of docs/how-to/vlm-servers.md
    requests, early = sent.pop("requests"), sent.pop("came too early", 0)
    assert early == 0
    found = judge.endpoint.counts
    assert found.total() == judge.ledger.total().requests
    assert found["answered"] == sum("doomed" not in clip.instruction for clip in clips)
    expected: Counter[str] = Counter()
    for name, count in sent.items():
        expected[NAMES.get(name, name)] += count
    return found, expected, requests


@pytest.mark.server
def test_in_thousands_of_judgements_no_fault_changes_a_reward_and_the_counts_add_up() -> None:
    """Every fault but a server that hangs, so that no clock decides what is counted."""
    with faulty(0.3, seed=1, without=("hang",)) as bad_days:
        found, expected, requests = judged(*brightening(COUNT, doomed=COUNT // 10), bad_days, timeout=600.0, attempts=8)
    assert found == expected
    assert found.total() == requests > 1.35 * COUNT


@pytest.mark.server
def test_beside_a_server_that_hangs_every_request_is_counted_once() -> None:
    """On a busy machine an answer can come too late, and then the client counts a timeout for what was sent."""
    count = COUNT // 4
    with faulty(0.3, seed=2) as bad_days:
        found, expected, requests = judged(
            *brightening(count, doomed=count), bad_days, timeout=5.0, attempts=16, longest_pause=2.0
        )
    late, lost = found["timed out"] - expected["timed out"], found.total() - requests
    assert expected["timed out"] > 0
    assert found - expected == Counter({"timed out": late})
    assert (expected - found).total() == late - lost
    assert 0 <= lost <= late

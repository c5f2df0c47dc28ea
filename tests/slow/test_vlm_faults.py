"""Ten thousand judgements by a server with every kind of fault."""

from __future__ import annotations

from collections import Counter

import pytest
from servers import brightening, faulty

from worldgymnast.judges.vlm import VLMConfig, VLMJudge

NAMES = {
    "right": "answered", "429 retry-after": "429", "429 retry-after-ms": "429", "reset": "connection",
    "cut body": "connection", "hang": "timed out", "html": "no chat completion", "prose": "no score",
}  # fmt: skip
"""What the client calls what the server did, where it has another name for it."""


@pytest.mark.server
def test_in_ten_thousand_judgements_no_fault_changes_a_reward_and_the_counts_add_up() -> None:
    clips, truth = brightening(10_000, doomed=1000)
    with faulty(0.3, seed=1) as bad_days:
        asked = VLMJudge(VLMConfig(bad_days.endpoint(concurrency=64, timeout=10.0, attempts=8), pixels=8))
        verdicts = asked.score(clips)
        sent = bad_days.counts()
    for i, (verdict, true) in enumerate(zip(verdicts, truth, strict=True)):
        if "doomed" in clips[i].instruction:
            assert verdict.score is None
            assert verdict.error
        else:
            assert verdict.score == true, verdict.error
    print(sent)  # the table of docs/vlm-servers.md
    requests, early = sent.pop("requests"), sent.pop("came too early", 0)
    expected: Counter[str] = Counter()
    for name, count in sent.items():
        expected[NAMES.get(name, name)] += count
    assert asked.endpoint.counts == expected
    assert asked.endpoint.counts.total() == requests == asked.ledger.total().requests
    assert asked.endpoint.counts["answered"] == 9_990
    assert early == 0
    assert requests > 14_000

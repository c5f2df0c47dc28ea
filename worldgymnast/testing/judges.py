"""Contract checks of judges."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldgymnast.protocols import Judge
from worldgymnast.testing.contract import SENTENCES, require, require_identity, require_protocol
from worldgymnast.types import Clip, Verdict


def check_judge(judge: Any, frame_size: tuple[int, int] = (64, 64)) -> None:
    """Check that a judge gives one verdict per clip, in order.

    Args:
        judge: the judge; a remote judge gets three requests.
        frame_size: height and width of the frames.

    Raises:
        ContractError: the judge violates its contract.

    >>> import worldgymnast as wg
    >>> wg.testing.check_judge(wg.load_judge(wg.starter("judge")))
    """
    require_protocol(judge, Judge)
    require_identity(judge)
    name, rng = type(judge).__name__, np.random.default_rng(0)
    clips = [
        Clip(rng.integers(0, 256, (3 + i, *frame_size, 3), dtype=np.uint8), SENTENCES[i % 2], "drawer-open", True)
        for i in range(3)
    ]
    verdicts = judge.score(clips)
    require(
        len(verdicts) == 3 and all(isinstance(verdict, Verdict) for verdict in verdicts),
        f"{name}.score gives {len(verdicts)} verdicts for 3 clips",
        "Verdicts would be assigned to the wrong rollouts",
        "Return one Verdict per clip, in order; Verdict(None, error=REASON) if it failed",
    )
    for clip, verdict in zip(clips, verdicts, strict=True):
        _check_verdict(name, clip, verdict)
    if judge.is_remote:
        return
    reversed_verdicts = judge.score(clips[::-1])[::-1]
    require(
        [one.score for one in reversed_verdicts] == [one.score for one in verdicts],
        f"{name}.score gives other verdicts for another order of the clips",
        "A rollout's reward would depend on other rollouts",
        "Judge each clip independently",
    )
    require(
        list(judge.score([])) == [],
        f"{name}.score of no clips gives verdicts",
        "An empty batch would fail",
        "Return an empty list",
    )


def _check_verdict(name: str, clip: Clip, verdict: Verdict) -> None:
    require(
        verdict.score is None or 0 <= verdict.score <= 1,
        f"{name}.score gives a score of {verdict.score}",
        "Scores are compared with 0 and 1",
        "Return 1 for success, less for partial success, None if the judge failed",
    )
    require(
        verdict.success_frame is None or 0 <= verdict.success_frame < len(clip.frames),
        f"{name}.score gives frame {verdict.success_frame} of a clip of {len(clip.frames)} frames",
        "Actions after success get no gradient, so the policy would learn from the wrong ones",
        "Return the index of a frame of the clip, or None",
    )

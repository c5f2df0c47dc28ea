"""What answers mean: read, refused, and counted as votes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldgymnast.errors import InputError
from worldgymnast.judges.prompt import (
    RUBRICS,
    NoScore,
    certain,
    check_criteria,
    from_logprobs,
    parse,
    question,
    rubric,
    sample_frames,
    schema,
    verdict,
)
from worldgymnast.types import Clip

BINARY, PARTIAL, PROGRESS = (RUBRICS[name] for name in ("binary-v1", "partial-v1", "progress-v1"))
CLIP = Clip(np.arange(13, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3), "open it")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("The drawer moved.\nFinal Score: 1", 1),
        ("**Final Score:** 0", 0),
        ("final score = <1>", 1),
        ("I will end with Final Score: <0|1>.\nFinal Score: 1.0", 1),
        ("Final Score: 1\nFinal Score: 1", 1),
        ("The final score is 0.", 0),
        ('{"observation": "it is open", "score": 1}', 1),
        ('```json\n{"score": 0}\n```', 0),
    ],
)
def test_a_score_is_read_however_it_is_written(text: str, score: float) -> None:
    assert parse(text, BINARY) == score


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        (None, "empty"),
        ("The drawer is open, 1 of 1.", "no score"),
        ("Final Score: <0|1>", "no score"),
        ('{"observation": "it is', "no score"),
        ('{"observation": "it is open"}', "no score"),
        ('{"score": true}', "no score"),
        ("Final Score: 7", "out of range"),
        ("Final Score: 0.5", "out of range"),
        ("Final Score: -1", "out of range"),
        ("Final Score: 1\nNo: Final Score: 0", "contradictory"),
    ],
)
def test_an_answer_that_says_nothing_is_no_score(text: str | None, kind: str) -> None:
    with pytest.raises(NoScore) as error:
        parse(text, BINARY)
    assert error.value.kind == kind


@pytest.mark.parametrize("prompt", RUBRICS.values(), ids=lambda r: r.version)
def test_every_rubric_reads_its_own_scores_and_its_own_schema(prompt) -> None:
    for score, choice in zip(prompt.scores, prompt.choices, strict=True):
        assert parse(f"Final Score: {choice}", prompt) == score
        assert parse(json.dumps({"observation": "", "score": score}), prompt) == score
    assert schema(prompt)["properties"]["score"]["enum"] == list(prompt.scores)


def test_the_prompts_that_were_published_do_not_change_under_their_version() -> None:
    """Another wording is another version: its answers are kept, compared and calibrated under that name."""
    import hashlib

    asked = {v: question(r, CLIP, "CRITERION", 2) for v, r in RUBRICS.items()}
    words = {v: "|".join(p for p in parts if isinstance(p, str)) for v, parts in asked.items()}
    assert {v: hashlib.sha256(text.encode()).hexdigest()[:12] for v, text in words.items()} == HASHES


HASHES = {"binary-v1": "45e856e04193", "partial-v1": "9a37fa4c01c7", "progress-v1": "b9ff2abac325"}


# ---------------------------------------------------------------- frames


def test_frames_are_spread_over_the_clip_and_hold_both_ends() -> None:
    assert sample_frames(CLIP.frames, 4)[:, 0, 0, 0].tolist() == [0, 4, 8, 12]
    assert len(sample_frames(CLIP.frames, 100)) == 13
    pictures = [p for p in question(BINARY, CLIP, "", 5) if not isinstance(p, str)]
    assert [int(p[0, 0, 0]) for p in pictures] == [0, 3, 6, 9, 12]
    (sheet,) = [p for p in question(BINARY, CLIP, "", 6, sheet=True) if not isinstance(p, str)]
    assert sheet.shape == (2 * 8 + 1, 4 * 8 + 3, 3)


def test_a_criterion_that_is_missing_is_named_before_anything_is_asked() -> None:
    check_criteria(BINARY, {}, [("drawer-open", "open the drawer")])
    check_criteria(PARTIAL, {"drawer-open": "it moves"}, [("drawer-open", "open the drawer"), ("drawer-open", "pull")])
    with pytest.raises(InputError, match="field 'criteria': found none for 'door-close' and 1 more"):
        check_criteria(PARTIAL, {"drawer-open": "it moves"}, [("door-close", "x"), ("", "y"), ("drawer-open", "z")])
    with pytest.raises(InputError, match=r"found 'binary', expected one of .*did you mean 'binary-v1'"):
        rubric("binary")


# ---------------------------------------------------------------- votes


def votes(*scores: float | None):
    return [None if s is None else certain(s) for s in scores]


def test_the_majority_counts_and_a_tie_is_what_was_said() -> None:
    assert verdict(votes(1, 1, 0), BINARY).score == 1
    assert verdict(votes(1, 0, 0), BINARY).score == 0
    assert verdict(votes(1, 0), BINARY).score == 0
    assert verdict(votes(1, 0), BINARY, tie="success").score == 1
    assert verdict(votes(1, 1, 0), BINARY, threshold=0.8).score == 0
    assert verdict(votes(1, 0.5, 0.5, 0), PARTIAL).score == 0.5
    assert verdict(votes(0.5, 0), PARTIAL).score == 0
    assert verdict(votes(3, 3, 5), PROGRESS).score == 0.6
    assert verdict(votes(5, 5, 1), PROGRESS).score == 1
    assert verdict(votes(1, 1, 0), BINARY).probability == pytest.approx(2 / 3)


def test_the_probability_of_the_token_is_read() -> None:
    found = from_logprobs(BINARY, {"1": np.log(0.6), " 1": np.log(0.1), "0": np.log(0.1), "maybe": np.log(0.2)})
    assert found == pytest.approx({1.0: 0.875, 0.0: 0.125})
    assert from_logprobs(BINARY, {"yes": -0.1}) is None
    assert verdict([found], BINARY, threshold=0.9).score == 0


@given(
    st.lists(st.sampled_from([*PARTIAL.scores, None]), min_size=1, max_size=6),
    st.sampled_from(["failure", "success"]),
    st.sampled_from([0.3, 0.5, 0.75]),
)
def test_a_verdict_with_votes_missing_is_what_any_votes_in_their_place_would_give(given_votes, tie, threshold) -> None:
    """An outage never changes a reward: either it could not have, or there is none."""
    missing = given_votes.count(None)
    found = verdict(votes(*given_votes), PARTIAL, threshold, tie)
    if found.score is None:
        assert missing
        return
    known = [v for v in given_votes if v is not None]
    for score in PARTIAL.scores:
        assert verdict(votes(*known, *[score] * missing), PARTIAL, threshold, tie).score == found.score

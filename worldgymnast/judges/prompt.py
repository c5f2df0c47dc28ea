"""Prompt of a vision-language judge and meaning of its answers: rubric, frames, question, parsing, voting.

A rubric is a versioned prompt. Its version is part of the judge's name, the cache key and every report, so a changed
wording needs a new version. An answer is a distribution over the rubric's scores: one score if it was written, the
model's probabilities if they are available. The method's paper (World-Gymnast, arXiv 2602.02454) asks for
`Final Score: <0|1>` with five votes, and a tie counts as success. Here the tie is configurable, and an unreadable
answer is missing rather than a failure.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import UInt8

from worldgymnast.configs import Between, Fraction, checked
from worldgymnast.errors import FieldError
from worldgymnast.judges.answer import NoScore as NoScore
from worldgymnast.judges.answer import read_score
from worldgymnast.types import Clip, Verdict
from worldgymnast.video import contact_sheet

Answer = Mapping[float, float]
"""Probability of each score of a rubric, in the rubric's own numbers; they sum to 1."""
Part = str | UInt8[np.ndarray, "h w 3"]
"""Part of a question: text or an image."""
Tie = Literal["failure", "success"]

ANSWER_PREFIX = "Final Score: "
"""Start of the last line of an answer."""
_COLUMNS = 4
"""Frames per row of a contact sheet."""


# ---------------------------------------------------------------- rubrics


@dataclass(frozen=True)
class Rubric:
    """A versioned prompt.

    Attributes:
        version: name of the rubric.
        scores: allowed scores, ascending; the last one is success.
        request: question after the frames; may contain `{criterion}`.
    """

    version: str
    scores: tuple[float, ...]
    request: str

    @property
    def wants_criterion(self) -> bool:
        """Whether every task needs a criterion of partial success."""
        return "{criterion}" in self.request

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed scores as text."""
        return tuple(f"{score:g}" for score in self.scores)


_HEAD = (
    'A robot arm was told: "{instruction}". You see {count} frames of its attempt in the order of time, from the first '
    "to the last. They may come from a video model: judge only what can be seen, and take objects that melt, vanish or "
    "appear from nowhere as no evidence of success."
)
_TAIL = (
    "First say in one or two sentences what changed between the first frame and the last. Then end with exactly one "
    "line:\nFinal Score: <{choices}>"
)

RUBRICS = {
    rubric.version: rubric
    for rubric in (
        Rubric(
            "binary-v1",
            (0.0, 1.0),
            "Has the task been accomplished by the last frame? Score 1 if it clearly has, and 0 if it has not, is only "
            "partly done, or cannot be told.",
        ),
        Rubric(
            "partial-v1",
            (0.0, 0.5, 1.0),
            "Has the task been accomplished by the last frame? Score 1 if it clearly has; 0.5 if it has not, but this "
            "holds: {criterion}; and 0 if neither can be seen.",
        ),
        Rubric(
            "progress-v1",
            (0.0, 1.0, 2.0, 3.0, 4.0, 5.0),
            "How far has the task come by the last frame? Score 0 for no progress, 1 if the arm has moved toward the "
            "right object, 2 if it touches it, 3 if the task is under way, 4 if it is almost done, and 5 if it is "
            "clearly accomplished.",
        ),
    )
}


def rubric(version: str) -> Rubric:
    """Rubric of a version.

    Raises:
        InputError: the version is unknown; the message suggests the nearest.

    >>> rubric("binary-v1").scores
    (0.0, 1.0)
    """
    if version not in RUBRICS:
        near = difflib.get_close_matches(version, RUBRICS, n=1, cutoff=0.0)[0]
        known = ", ".join(RUBRICS)
        raise FieldError("rubric", f"found '{version}', expected one of {known}; did you mean '{near}'?")
    return RUBRICS[version]


@checked(kw_only=True)
class QuestionConfig:
    """Questions to a vision-language model, local or remote.

    Attributes:
        rubric: version of the prompt.
        frames: largest number of frames, evenly spaced.
        sheet: send all frames as one image, for models that accept only one.
        pixels: frames are enlarged by an integer factor until their shorter side has at least this many pixels.
        votes: questions per clip; the majority decides.
        tie: outcome of a tie; the published method uses "success".
        threshold: threshold of the mean success probability.
        criteria: criteria of partial success by task or instruction, for rubrics that need them.
    """

    rubric: str = "binary-v1"
    frames: Annotated[int, Between(2, 1024)] = 8
    sheet: bool = False
    pixels: Annotated[int, Between(0, 2048)] = 224
    votes: Annotated[int, Between(1, 1000)] = 1
    tie: Tie = "failure"
    threshold: Fraction = 0.5
    criteria: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rubric(self.rubric)


def criterion_of(clip: Clip, criteria: Mapping[str, str]) -> str:
    """Criterion of partial success for a clip's task or instruction.

    "" if there is none.
    """
    return criteria.get(clip.task) or criteria.get(clip.instruction) or ""


def check_criteria(rubric: Rubric, criteria: Mapping[str, str], tasks: Iterable[tuple[str, str]]) -> None:
    """Check that every task has a criterion of partial success if the rubric needs one.

    Args:
        rubric: the prompt.
        criteria: criteria by task or instruction.
        tasks: task and instruction of every clip to judge.

    Raises:
        FieldError: a task has no criterion.
    """
    missing = sorted({task or text for task, text in tasks if not (criteria.get(task) or criteria.get(text))})
    if rubric.wants_criterion and missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FieldError(
            "criteria",
            f"found none for '{missing[0]}'{more}, expected a criterion of partial success, which {rubric.version} "
            "needs. Add it, or use the rubric binary-v1",
        )


# ---------------------------------------------------------------- the question


def sample_frames(frames: UInt8[np.ndarray, "t h w 3"], most: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Up to `most` evenly spaced frames, including the first and the last.

    >>> sample_frames(np.zeros((13, 4, 4, 3), np.uint8), 4).shape
    (4, 4, 4, 3)
    """
    return frames[np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))]


def question(rubric: Rubric, clip: Clip, criterion: str, most: int, sheet: bool = False) -> list[Part]:
    """Question about a clip: texts and images in order.

    Args:
        rubric: the prompt.
        clip: the clip to judge.
        criterion: criterion of partial success, if the rubric needs one.
        most: largest number of frames, see `sample_frames`.
        sheet: all frames in one image, row by row, for models that accept only one.
    """
    frames = sample_frames(clip.frames, most)
    parts: list[Part] = [_HEAD.format(instruction=clip.instruction, count=len(frames))]
    if sheet:
        rows = [frames[i : i + _COLUMNS] for i in range(0, len(frames), _COLUMNS)]
        parts += ["The frames, left to right, then top to bottom:", contact_sheet(rows)]
    else:
        for number, frame in enumerate(frames, 1):
            parts += [f"Frame {number}:", frame]
    tail = _TAIL.format(choices="|".join(rubric.choices))
    return [*parts, f"{rubric.request.format(criterion=criterion)}\n{tail}"]


def schema(rubric: Rubric) -> dict[str, Any]:
    """JSON schema of a structured answer."""
    return {
        "type": "object",
        "properties": {
            "observation": {"type": "string"},
            "score": {"type": "number", "enum": [int(s) if s.is_integer() else s for s in rubric.scores]},
        },
        "required": ["observation", "score"],
        "additionalProperties": False,
    }


# ---------------------------------------------------------------- the answer


def parse(text: str | None, rubric: Rubric) -> float:
    """Read the score of an answer; see `judges.answer.read_score`.

    Raises:
        NoScore: the answer is empty, truncated, or has no score, an unknown one, or several.
    """
    return read_score(text or "", rubric.scores)


def certain(score: float) -> Answer:
    """Answer with all probability on one score."""
    return {score: 1.0}


def bare(token: str) -> str:
    """Token without the leading space, in any tokenizer's notation."""
    return token.strip().lstrip("\u0120\u2581")


def from_logprobs(rubric: Rubric, logprobs: Mapping[str, float]) -> Answer | None:
    """Answer from the log-probabilities of the next token.

    None if no score is among them.

    Args:
        rubric: the prompt; only scores of one digit are single tokens.
        logprobs: log-probability by token text.
    """
    mass = dict.fromkeys(rubric.scores, 0.0)
    for token, logprob in logprobs.items():
        if bare(token) in rubric.choices:
            mass[rubric.scores[rubric.choices.index(bare(token))]] += math.exp(logprob)
    total = sum(mass.values())
    return {score: p / total for score, p in mass.items()} if total > 0 else None


# ---------------------------------------------------------------- votes


def verdict(
    answers: Sequence[Answer | None], rubric: Rubric, threshold: float = 0.5, tie: Tie = "failure", cost: float = 0.0
) -> Verdict:
    """Combine votes; the score is None if missing votes could change it.

    The verdict is success if the mean probability of the highest score exceeds `threshold`; at the threshold `tie`
    decides. Otherwise the most likely of the other scores counts (the lowest of equals), as a share of the highest.

    Args:
        answers: the votes; None for a failed one.
        rubric: the prompt.
        threshold: threshold of success, in [0, 1].
        tie: outcome of a probability equal to the threshold.
        cost: cost of the votes.
    """
    votes = [a for a in answers if a is not None]
    missing = len(answers) - len(votes)
    if not votes:
        return Verdict(None, error="all votes failed", cost=cost)
    score, probability = _outcome(votes, rubric, threshold, tie)
    possible = [[*votes, *[certain(other)] * missing] for other in rubric.scores] if missing else []
    if any(_outcome(outcome, rubric, threshold, tie)[0] != score for outcome in possible):
        return Verdict(None, error=f"{missing} of {len(answers)} votes failed and could change the verdict", cost=cost)
    return Verdict(score, probability, cost=cost)


def _outcome(answers: Sequence[Answer], rubric: Rubric, threshold: float, tie: Tie) -> tuple[float, float]:
    """Score as a share of the highest one, and probability of the highest one."""
    mass = Counter[float]()
    for answer in answers:
        mass.update(answer)
    top = rubric.scores[-1]
    success = mass[top] / len(answers)
    is_tie = math.isclose(success, threshold, abs_tol=1e-9)
    is_success = tie == "success" if is_tie else success > threshold
    if is_success:
        return 1.0, success
    best = max(rubric.scores[:-1], key=lambda score: (mass[score], -score))
    return best / top, success

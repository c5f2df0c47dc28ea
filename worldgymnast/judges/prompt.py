"""What a vision-language judge is asked, and what its answers mean: rubric, frames, question, parsing, voting. Pure.

A rubric is a versioned prompt: its version is part of the judge's name, of the cache's key and of every report, so a
changed wording is a new version, never an edit. An answer is a distribution over the rubric's scores: one score where
it was written, the model's own probabilities where they could be read. The method's paper (World-Gymnast,
arXiv 2602.02454) asks for `Final Score: <0|1>`, five votes, a tie counting as success; here the tie is a setting, and
an answer that says nothing is no answer rather than a failure.
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
"""A piece of a question: words, or a picture."""
Tie = Literal["failure", "success"]

ANSWER_PREFIX = "Final Score: "
"""What the last line of an answer begins with."""
_COLUMNS = 4
"""Frames side by side on a sheet."""


# ---------------------------------------------------------------- rubrics


@dataclass(frozen=True)
class Rubric:
    """A versioned prompt.

    Attributes:
        version: its name.
        scores: what may be answered, ascending; the last one is success.
        request: what is asked after the frames; may name `{criterion}`.
    """

    version: str
    scores: tuple[float, ...]
    request: str

    @property
    def wants_criterion(self) -> bool:
        """Whether each task needs a criterion of partial success."""
        return "{criterion}" in self.request

    @property
    def choices(self) -> tuple[str, ...]:
        """The scores as they are written."""
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
    """The rubric of that version.

    Raises:
        InputError: there is none; the message has the nearest.
    """
    if version not in RUBRICS:
        near = difflib.get_close_matches(version, RUBRICS, n=1, cutoff=0.0)[0]
        raise FieldError("rubric", f"found '{version}', expected one of {', '.join(RUBRICS)}; "
                         f"did you mean '{near}'?")  # fmt: skip
    return RUBRICS[version]


@checked(kw_only=True)
class Asking:
    """How a vision-language model is asked, wherever it runs.

    Attributes:
        rubric: version of the prompt.
        frames: frames shown at most, evenly spaced.
        sheet: all frames as one picture, for models that take one only.
        pixels: frames are enlarged until their shorter side has as many, by whole pixels.
        votes: how often each clip is asked about; the majority counts.
        tie: what an even vote is; the published method takes it for a success.
        threshold: of the mean probability of success.
        criteria: of partial success, by task or instruction, for a rubric that wants one.
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
    """The criterion of partial success of a clip's task, or of its instruction; "" where there is none."""
    return criteria.get(clip.task) or criteria.get(clip.instruction) or ""


def check_criteria(rubric: Rubric, criteria: Mapping[str, str], asked: Iterable[tuple[str, str]]) -> None:
    """Raises `InputError` where the rubric wants a criterion of partial success and a task has none.

    Args:
        rubric: the prompt.
        criteria: by task or instruction.
        asked: task and instruction of what will be judged.
    """
    lacking = sorted({task or words for task, words in asked if not (criteria.get(task) or criteria.get(words))})
    if rubric.wants_criterion and lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise FieldError(
            "criteria",
            f"found none for '{lacking[0]}'{more}, expected what counts as partial success, which "
            f"{rubric.version} asks about; add it, or take the rubric binary-v1",
        )


# ---------------------------------------------------------------- the question


def sample_frames(frames: UInt8[np.ndarray, "t h w 3"], most: int) -> UInt8[np.ndarray, "n h w 3"]:
    """At most `most` frames, evenly spaced, the first and the last among them."""
    return frames[np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))]


def question(rubric: Rubric, clip: Clip, criterion: str, most: int, sheet: bool = False) -> list[Part]:
    """What is asked about a clip: words and pictures in the order in which they are shown.

    Args:
        rubric: the prompt.
        clip: what is judged.
        criterion: of partial success, where the rubric wants one.
        most: frames at most, see `sample_frames`.
        sheet: all frames in one picture, row by row, for models that take one only.
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
    """The JSON schema of a structured answer."""
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
    """The score in an answer; see `judges.answer.read_score`.

    Raises:
        NoScore: the answer is empty, cut off, has no score, one that the rubric does not know, or several.
    """
    return read_score(text or "", rubric.scores)


def written(score: float) -> Answer:
    """The answer of somebody who wrote that score."""
    return {score: 1.0}


def bare(token: str) -> str:
    """A token without the space before it, however the tokenizer writes that."""
    return token.strip().lstrip("\u0120\u2581")


def from_logprobs(rubric: Rubric, logprobs: Mapping[str, float]) -> Answer | None:
    """The answer of a model that gave these log-probabilities to the next token; None where no score is among them.

    Args:
        rubric: the prompt; only scores of one digit are single tokens.
        logprobs: token, as it is written, to its log-probability.
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
    """What the votes say together; None where votes are missing that could have changed it.

    Success is a mean probability of the highest score above `threshold`; at the threshold, `tie` decides. Otherwise the
    likeliest of the other scores counts, of several the lowest, as a share of the highest.

    Args:
        answers: the votes, None where one failed.
        rubric: the prompt that was answered.
        threshold: of success, in [0, 1].
        tie: what a probability equal to the threshold is.
        cost: what the votes cost.
    """
    given = [a for a in answers if a is not None]
    missing = len(answers) - len(given)
    if not given:
        return Verdict(None, error="no vote could be had", cost=cost)
    said = _outcome(given, rubric, threshold, tie)
    if missing and any(
        _outcome([*given, *[written(score)] * missing], rubric, threshold, tie)[0] != said[0] for score in rubric.scores
    ):
        return Verdict(None, error=f"{missing} of {len(answers)} votes could not be had and would decide", cost=cost)
    return Verdict(said[0], said[1], cost=cost)


def _outcome(answers: Sequence[Answer], rubric: Rubric, threshold: float, tie: Tie) -> tuple[float, float]:
    """Score as a share of the highest one, and the probability of the highest one."""
    mass = Counter[float]()
    for answer in answers:
        mass.update(answer)
    top = rubric.scores[-1]
    success = mass[top] / len(answers)
    even = math.isclose(success, threshold, abs_tol=1e-9)
    if tie == "success" if even else success > threshold:
        return 1.0, success
    best = max(rubric.scores[:-1], key=lambda score: (mass[score], -score))
    return best / top, success

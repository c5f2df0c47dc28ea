"""A vision-language model behind any OpenAI-compatible endpoint, as a judge.

A clip becomes one question (`judges.prompt`) that is asked `votes` times. Every answer is kept in the ledger under the
model, the prompt and the frames, so a resumed run asks nothing twice. A judgement that could not be had is `None`,
with the reason: it leaves the group and the statistics, and no outage ever changes a reward.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Annotated, Any

import numpy as np

from worldgymnast.configs import Between, checked
from worldgymnast.endpoint import Endpoint, EndpointConfig
from worldgymnast.errors import FieldError, InputError
from worldgymnast.files import parse_json
from worldgymnast.judges.probe import probe
from worldgymnast.judges.prompt import (
    Answer,
    Asking,
    NoScore,
    Part,
    Rubric,
    bare,
    check_criteria,
    criterion_of,
    from_logprobs,
    parse,
    question,
    rubric,
    schema,
    verdict,
    written,
)
from worldgymnast.ledger import Ledger
from worldgymnast.replies import answer_of
from worldgymnast.types import Clip, Verdict
from worldgymnast.video import jpeg_url
from worldgymnast.weights import fingerprint

_READING = 2
"""Version of how answers are read: what a ledger holds that was read in another way is asked for again."""
_LIKELIEST = 10
"""Tokens of which the server is asked the log-probability."""
_ROUNDING = 1e-3
"""How far above 0 a log-probability may be that was rounded."""
_TRIED = 8
"""Tokens at most that are tried as the score's, the last ones."""


@checked
class VLMConfig(Asking):
    """What is asked, and where.

    Attributes:
        endpoint: where.
        temperature: of the answers; None leaves it to the server.
        max_tokens: of an answer; None leaves it to the server.
        structured: asks for JSON of a given form, where the server can.
        logprobs: reads the probability of the score's token rather than the score, where the server tells it.
        sees: takes on trust that the server sees every picture, where its count of tokens leaves pictures out.
    """

    endpoint: EndpointConfig
    temperature: Annotated[float, Between(0, 100)] | None = 0.0
    max_tokens: Annotated[int, Between(1, 2**20)] | None = 300
    structured: bool = False
    logprobs: bool = False
    sees: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.votes > 1 and self.temperature == 0:
            raise FieldError(
                "temperature",
                f"found 0 for {self.votes} votes, which would all be the same; expected more than 0, such as 0.7, or "
                "one vote",
            )


class VLMJudge:
    """A `Judge` behind an endpoint.

    Args:
        config: what is asked.
        ledger: keeps answers and expenses; in memory if left out.
    """

    waits = True

    def __init__(self, config: VLMConfig, ledger: Ledger | None = None):
        self.config, self.rubric = config, rubric(config.rubric)
        self.ledger = ledger or Ledger()
        self.endpoint = Endpoint(config.endpoint, self.ledger)

    @property
    def name(self) -> str:
        """The model and the version of its prompt."""
        return f"{self.config.endpoint.model}, {self.config.rubric}"

    @property
    def identity(self) -> str:
        """First 16 hex digits of a hash over everything that may change a verdict, and nothing else."""
        config = self.config
        return fingerprint([self._asked(), config.votes, config.tie, config.threshold, dict(config.criteria)])

    def _asked(self) -> dict[str, Any]:
        """What an answer depends on, apart from the clip."""
        names = ("rubric", "frames", "sheet", "pixels", "temperature", "max_tokens", "structured", "logprobs")
        of_endpoint = {"model": self.config.endpoint.model, "extra": dict(self.config.endpoint.extra)}
        return {name: getattr(self.config, name) for name in names} | of_endpoint

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """See `Judge.score`; up to `concurrency` clips are asked about at a time.

        Raises:
            BudgetSpent: the budget has run out; what was answered is in the ledger.
        """
        with ThreadPoolExecutor(self.config.endpoint.concurrency) as pool:
            asked = [pool.submit(self._judge, clip) for clip in clips]
            try:
                return [future.result() for future in asked]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _judge(self, clip: Clip) -> Verdict:
        criterion = criterion_of(clip, self.config.criteria)
        key = _key(self._asked(), clip, criterion)
        kept, votes = self._kept(key), self.config.votes
        cost, error = 0.0, None
        if len(kept) < votes:
            with self.ledger.holding(key, self.endpoint.stopped):
                kept = self._kept(key)  # another process may have asked in the meantime
                open_numbers = [number for number in range(votes) if number not in kept]
                parts = question(self.rubric, clip, criterion, self.config.frames, self.config.sheet)
                asked = self.endpoint.ask(self.messages(parts), self._read, len(open_numbers), **self.fields())
                new = dict(zip(open_numbers, asked.answers, strict=False))
                self.ledger.keep(key, {number: _dumped(answer) for number, answer in new.items()})
            kept, cost, error = kept | new, asked.cost, asked.error
        answers = [kept.get(number) for number in range(votes)]
        found = verdict(answers, self.rubric, self.config.threshold, self.config.tie, cost)
        return replace(found, error=error or found.error) if found.score is None else found

    def _kept(self, key: str) -> dict[int, Answer]:
        """The votes of a question that are in the ledger and can be read."""
        votes = {number: _loaded(text) for number, text in self.ledger.answers(key).items()}
        numbers, scores = range(self.config.votes), set(self.rubric.scores)
        whole = {number for number, vote in votes.items() if math.isclose(sum(vote.values()), 1, abs_tol=1e-6)}
        return {number: votes[number] for number in numbers if number in whole and set(votes[number]) <= scores}

    # ------------------------------------------------------------ question and answer

    def messages(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """A question in OpenAI's form."""
        return [{"role": "user", "content": [self._content(part) for part in parts]}]

    def _content(self, part: Part) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        return {"type": "image_url", "image_url": {"url": jpeg_url(part, self.config.pixels)}}

    def fields(self) -> dict[str, Any]:
        """Fields of every request, beside the question."""
        config, fields = self.config, dict[str, Any]()
        fields |= {} if config.temperature is None else {"temperature": config.temperature}
        fields |= {} if config.max_tokens is None else {"max_tokens": config.max_tokens}
        fields |= {"logprobs": True, "top_logprobs": _LIKELIEST} if config.logprobs else {}
        if config.structured:
            form = {"name": "verdict", "strict": True, "schema": schema(self.rubric)}
            fields["response_format"] = {"type": "json_schema", "json_schema": form}
        return fields

    def _read(self, choice: Any) -> Answer:
        """What a choice of a reply says; raises `Unusable`."""
        score = parse(answer_of(choice), self.rubric)
        return (self._likely(choice, score) if self.config.logprobs else None) or written(score)

    def _likely(self, choice: Any, score: float) -> Answer | None:
        """The model's own probabilities at the score's token; None where they are not told.

        The score's token is the one that, replaced by another score, makes the answer read as that other one.
        """
        tokens = _list(getattr(choice, "logprobs", None), "content")
        said = [token if isinstance(token := getattr(t, "token", None), str) else "" for t in tokens]
        if _score_in("".join(said), self.rubric) != score:
            return None
        other = next(s for s in self.rubric.scores if s != score)
        own = [i for i, token in enumerate(said) if bare(token) == f"{score:g}"]
        for i in own[-_TRIED:]:
            swapped = said[i].replace(f"{score:g}", f"{other:g}")
            if _score_in("".join([*said[:i], swapped, *said[i + 1 :]]), self.rubric) == other:
                return from_logprobs(self.rubric, _told(tokens[i]))
        return None

    # ------------------------------------------------------------ before anything is spent

    def check(self, asked: Iterable[tuple[str, str]]) -> None:
        """Asks the server about one small clip, to find out now rather than in the middle of a run.

        Args:
            asked: task and instruction of everything that will be judged.

        Raises:
            InputError: no key, no server, no such model, no or too few images taken, a criterion missing.
        """
        check_criteria(self.rubric, self.config.criteria, asked)
        probe(self)

    def cancel(self) -> None:
        """Asks nothing more; clips that were not asked about yet get no verdict."""
        self.endpoint.stop()


def _key(asked: Mapping[str, Any], clip: Clip, criterion: str) -> str:
    """Under what the answers about a clip are kept: how they are read, model, prompt, words and frames."""
    words = json.dumps([_READING, asked, clip.instruction, criterion, clip.frames.shape], sort_keys=True)
    digest = hashlib.sha256(words.encode())
    digest.update(np.ascontiguousarray(clip.frames).data)
    return digest.hexdigest()


def _list(holder: Any, name: str) -> list[Any]:
    """The list in a field of a reply; empty where there is none."""
    found = getattr(holder, name, None)
    return list(found) if isinstance(found, list | tuple) else []


def _told(token: Any) -> dict[str, float]:
    """The log-probabilities at a token, by what could stand there; those that are no numbers up to 0 are left out."""
    pairs = [(getattr(t, "token", None), getattr(t, "logprob", None)) for t in (*_list(token, "top_logprobs"), token)]
    return {
        text: min(float(logprob), 0.0)
        for text, logprob in pairs
        if isinstance(text, str) and isinstance(logprob, int | float) and -1e9 < logprob <= _ROUNDING
    }


def _score_in(text: str, rubric: Rubric) -> float | None:
    """The score in an answer; None where there is none."""
    try:
        return parse(text, rubric)
    except NoScore:
        return None


def _dumped(answer: Answer) -> str:
    return json.dumps(list(answer.items()))


def _loaded(text: str) -> Answer:
    """A kept answer; an empty one where it cannot be read, which is asked for again."""
    try:
        return {float(score): max(0.0, float(p)) for score, p in parse_json(text, "ledger")}
    except (InputError, TypeError, ValueError, OverflowError):
        return {}

"""Judge by a vision-language model behind an OpenAI-compatible endpoint.

A clip becomes one question (`judges.prompt`), asked `votes` times. The ledger stores every answer under the model, the
prompt and the frames, so a resumed run repeats no request. A failed judgment has score None and a reason: it leaves the
group and the statistics, so an outage never changes a reward.
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
    NoScore,
    Part,
    QuestionConfig,
    Rubric,
    bare,
    certain,
    check_criteria,
    criterion_of,
    from_logprobs,
    parse,
    question,
    rubric,
    schema,
    verdict,
)
from worldgymnast.ledger import Ledger
from worldgymnast.replies import answer_text
from worldgymnast.types import Clip, Verdict
from worldgymnast.video import jpeg_url
from worldgymnast.weights import fingerprint

_READING = 2
"""Version of the answer parser; a new version ignores stored answers of older ones."""
_TOP_LOGPROBS = 10
"""Log-probabilities requested per token."""
_ROUNDING = 1e-3
"""Tolerance for rounded log-probabilities above 0."""
_MOST_TOKENS = 8
"""Number of last tokens that are tried as the score's token."""


@checked
class VLMConfig(QuestionConfig):
    """Config of a `VLMJudge`.

    Attributes:
        endpoint: the server and its model.
        temperature: sampling temperature; None uses the server's default.
        max_tokens: limit of an answer; None uses the server's default.
        structured: request JSON with a schema, if the server supports it.
        logprobs: use the probability of the score's token instead of the written score, if the server reports it.
        sees: assume that the server sees all images even if its token count excludes them.
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
                f"found 0 for {self.votes} votes, which would all be equal; expected more than 0, such as 0.7, or one "
                "vote",
            )


class VLMJudge:
    """`Judge` behind an endpoint.

    Args:
        config: the model and its questions.
        ledger: stores answers and costs; in memory by default.
    """

    is_remote = True

    def __init__(self, config: VLMConfig, ledger: Ledger | None = None):
        self.config, self.rubric = config, rubric(config.rubric)
        self.ledger = ledger or Ledger()
        self.endpoint = Endpoint(config.endpoint, self.ledger)

    @property
    def name(self) -> str:
        """Name of the model and version of the prompt."""
        return f"{self.config.endpoint.model}, {self.config.rubric}"

    @property
    def identity(self) -> str:
        """Hash, 16 hex digits, of all settings that can change a verdict."""
        config = self.config
        return fingerprint(
            [self._question_settings(), config.votes, config.tie, config.threshold, dict(config.criteria)]
        )

    def _question_settings(self) -> dict[str, Any]:
        """Settings that an answer depends on, apart from the clip."""
        names = ("rubric", "frames", "sheet", "pixels", "temperature", "max_tokens", "structured", "logprobs")
        of_endpoint = {"model": self.config.endpoint.model, "extra": dict(self.config.endpoint.extra)}
        return {name: getattr(self.config, name) for name in names} | of_endpoint

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """One verdict per clip; up to `concurrency` clips are judged in parallel.

        Raises:
            BudgetSpent: the budget is used up; earlier answers are in the ledger.
        """
        with ThreadPoolExecutor(self.config.endpoint.concurrency) as pool:
            futures = [pool.submit(self._judge, clip) for clip in clips]
            try:
                return [future.result() for future in futures]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _judge(self, clip: Clip) -> Verdict:
        criterion = criterion_of(clip, self.config.criteria)
        key = _key(self._question_settings(), clip, criterion)
        stored, votes = self._stored_answers(key), self.config.votes
        cost, error = 0.0, None
        if len(stored) < votes:
            with self.ledger.claim(key, self.endpoint.stopped):
                stored = self._stored_answers(key)  # another process may have asked in the meantime
                missing = [number for number in range(votes) if number not in stored]
                parts = question(self.rubric, clip, criterion, self.config.frames, self.config.sheet)
                reply = self.endpoint.ask(self.messages(parts), self._read, len(missing), **self.fields())
                new = dict(zip(missing, reply.answers, strict=False))
                self.ledger.store(key, {number: _to_json(answer) for number, answer in new.items()})
            stored, cost, error = stored | new, reply.cost, reply.error
        answers = [stored.get(number) for number in range(votes)]
        result = verdict(answers, self.rubric, self.config.threshold, self.config.tie, cost)
        return replace(result, error=error or result.error) if result.score is None else result

    def _stored_answers(self, key: str) -> dict[int, Answer]:
        """Readable votes of a question in the ledger, by number."""
        votes = {number: _from_json(text) for number, text in self.ledger.answers(key).items()}
        numbers, scores = range(self.config.votes), set(self.rubric.scores)
        valid = {number for number, vote in votes.items() if math.isclose(sum(vote.values()), 1, abs_tol=1e-6)}
        return {number: votes[number] for number in numbers if number in valid and set(votes[number]) <= scores}

    # ------------------------------------------------------------ question and answer

    def messages(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """Question in OpenAI's message format."""
        return [{"role": "user", "content": [self._content(part) for part in parts]}]

    def _content(self, part: Part) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        return {"type": "image_url", "image_url": {"url": jpeg_url(part, self.config.pixels)}}

    def fields(self) -> dict[str, Any]:
        """Fields of every request, without the question."""
        config, fields = self.config, dict[str, Any]()
        fields |= {} if config.temperature is None else {"temperature": config.temperature}
        fields |= {} if config.max_tokens is None else {"max_tokens": config.max_tokens}
        fields |= {"logprobs": True, "top_logprobs": _TOP_LOGPROBS} if config.logprobs else {}
        if config.structured:
            form = {"name": "verdict", "strict": True, "schema": schema(self.rubric)}
            fields["response_format"] = {"type": "json_schema", "json_schema": form}
        return fields

    def _read(self, choice: Any) -> Answer:
        """Read one choice of a reply; raises `UnusableReply`."""
        score = parse(answer_text(choice), self.rubric)
        probabilities = self._probabilities(choice, score) if self.config.logprobs else None
        return probabilities or certain(score)

    def _probabilities(self, choice: Any, score: float) -> Answer | None:
        """Model's probabilities at the score's token.

        None if the server does not report them.

        The score's token is the one whose replacement by another score changes the score of the whole answer.
        """
        tokens = _list(getattr(choice, "logprobs", None), "content")
        texts = [token if isinstance(token := getattr(t, "token", None), str) else "" for t in tokens]
        if _score_in("".join(texts), self.rubric) != score:
            return None
        other = next(s for s in self.rubric.scores if s != score)
        candidates = [i for i, token in enumerate(texts) if bare(token) == f"{score:g}"]
        for i in candidates[-_MOST_TOKENS:]:
            replaced = texts[i].replace(f"{score:g}", f"{other:g}")
            if _score_in("".join([*texts[:i], replaced, *texts[i + 1 :]]), self.rubric) == other:
                return from_logprobs(self.rubric, _token_logprobs(tokens[i]))
        return None

    # ------------------------------------------------------------ preflight check

    def check(self, tasks: Iterable[tuple[str, str]]) -> None:
        """Check the server with one small clip before a run.

        Args:
            tasks: task and instruction of every clip to judge.

        Raises:
            InputError: key, server, model or criterion are missing, or the server accepts too few images.
        """
        check_criteria(self.rubric, self.config.criteria, tasks)
        probe(self)

    def cancel(self) -> None:
        """Send no further requests; clips without an answer get no verdict."""
        self.endpoint.stop()


def _key(settings: Mapping[str, Any], clip: Clip, criterion: str) -> str:
    """Key of a clip's answers: hash of parser version, settings, texts and frames."""
    text = json.dumps([_READING, settings, clip.instruction, criterion, clip.frames.shape], sort_keys=True)
    digest = hashlib.sha256(text.encode())
    digest.update(np.ascontiguousarray(clip.frames).data)
    return digest.hexdigest()


def _list(holder: Any, name: str) -> list[Any]:
    """List in a field of a reply; empty if it is missing."""
    value = getattr(holder, name, None)
    return list(value) if isinstance(value, list | tuple) else []


def _token_logprobs(token: Any) -> dict[str, float]:
    """Log-probabilities at a position by token text, without invalid numbers."""
    pairs = [(getattr(t, "token", None), getattr(t, "logprob", None)) for t in (*_list(token, "top_logprobs"), token)]
    return {
        text: min(float(logprob), 0.0)
        for text, logprob in pairs
        if isinstance(text, str) and isinstance(logprob, int | float) and -1e9 < logprob <= _ROUNDING
    }


def _score_in(text: str, rubric: Rubric) -> float | None:
    """Score of an answer; None if there is none."""
    try:
        return parse(text, rubric)
    except NoScore:
        return None


def _to_json(answer: Answer) -> str:
    return json.dumps(list(answer.items()))


def _from_json(text: str) -> Answer:
    """Stored answer.

    Empty if it is unreadable, so the question is asked again.
    """
    try:
        return {float(score): max(0.0, float(p)) for score, p in parse_json(text, "ledger")}
    except (InputError, TypeError, ValueError, OverflowError):
        return {}

"""Judge by a pretrained vision-language model in this process: Qwen2.5-VL, Qwen3-VL, SmolVLM and others.

By default the model generates nothing: its answer is prefilled with `Final Score: `, and the log-probability of every
score is read. A verdict then costs one forward pass and has a probability. `scoring="generate"` lets the model write an
answer, as an endpoint does. Not supported: models with remote code, quantized weights, several GPUs. SmolVLM's
processor needs the package num2words; no processor needs torchvision.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from worldgymnast.configs import Between, checked
from worldgymnast.errors import FieldError, InputError
from worldgymnast.judges.pretrained import load
from worldgymnast.judges.prompt import (
    ANSWER_PREFIX,
    Answer,
    NoScore,
    QuestionConfig,
    certain,
    check_criteria,
    criterion_of,
    parse,
    question,
    rubric,
    sample_frames,
    verdict,
)
from worldgymnast.types import Clip, Verdict
from worldgymnast.video import enlarge_to

Tokens = tuple[int, ...]


@checked
class LocalVLMConfig(QuestionConfig):
    """Config of a `LocalVLM`.

    Attributes:
        model: folder of a transformers model, or its name on the hub.
        scoring: "logprobs" reads the probability of every score; "generate" lets the model write an answer. Several
            votes need "generate" and a temperature above 0.
        temperature: sampling temperature of written answers; 0 is greedy.
        max_tokens: limit of a written answer; an answer truncated before its score is a missing vote.
        batch: clips judged at a time.
    """

    model: str
    scoring: Literal["logprobs", "generate"] = "logprobs"
    temperature: Annotated[float, Between(0, 100)] = 0.0
    max_tokens: Annotated[int, Between(1, 2**16)] = 128
    batch: Annotated[int, Between(1, 2**16)] = 8

    def __post_init__(self) -> None:
        if not self.model:
            raise FieldError("model", "found none, expected a folder or a name on the hub")
        super().__post_init__()
        is_sampled = self.scoring == "generate" and self.temperature > 0
        if self.votes > 1 and not is_sampled:
            raise FieldError(
                "votes",
                f"found {self.votes} votes, which would all be equal. Set scoring='generate' and a temperature above "
                "0, or votes=1",
            )
        if self.temperature > 0 and not is_sampled:
            raise FieldError(
                "temperature",
                f"found {self.temperature:g}, but scoring='logprobs' samples nothing. Set scoring='generate', or 0",
            )


class LocalVLM:
    """`Judge` that runs a vision-language model in memory.

    A verdict depends on its clip only, up to rounding: the seed of sampled answers is a hash of the clip.
    """

    def __init__(self, config: LocalVLMConfig, device: torch.device | str = "cpu"):
        """Load the model.

        Args:
            config: the model and its questions.
            device: device of the model; bfloat16 on a GPU, float32 elsewhere.

        Raises:
            InputError: the model cannot be loaded, or the device does not exist.
        """
        self.config = config
        self.rubric = rubric(config.rubric)
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device '{device}': torch found no usable GPU. Use 'cpu'")
        loaded = load(config.model, self.device)
        self.model, self.processor = loaded.model, loaded.processor
        self._fingerprint = loaded.fingerprint
        self._prefix, self._suffixes = self._choices()

    @property
    def name(self) -> str:
        """Name of the model and version of the prompt."""
        return f"{Path(self.config.model).name}, {self.rubric.version}"

    @property
    def is_remote(self) -> bool:
        """False: scoring runs in this process."""
        return False

    @property
    def identity(self) -> str:
        """Hash, 16 hex digits, of config, precision and the model's files."""
        settings = {k: v for k, v in asdict(self.config).items() if k not in ("batch", "model")}
        text = json.dumps([settings, str(self.model.dtype), self._fingerprint], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check(self, tasks: Iterable[tuple[str, str]]) -> None:
        """Raise InputError if a (task, instruction) has no criterion that the rubric needs."""
        check_criteria(self.rubric, self.config.criteria, tasks)

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """One verdict per clip, in order.

        `score` is None for an unreadable answer.

        Raises:
            InputError: a criterion is missing, a clip is too long for the model, or memory is insufficient.
        """
        self.check((clip.task, clip.instruction) for clip in clips)
        is_sampled = self.config.temperature > 0  # then a clip's random numbers must not depend on its batch
        size = 1 if is_sampled else self.config.batch
        verdicts: list[Verdict] = []
        for i in range(0, len(clips), size):
            inputs = self.inputs(clips[i : i + size])
            with _catch_out_of_memory(size):
                verdicts += self._score(inputs) if self.config.scoring == "logprobs" else self._generate(inputs)
        return verdicts

    # ------------------------------------------------------------ inputs of the model

    def inputs(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Inputs of the model on its device: token ids, padded on the left, and images.

        Raises:
            InputError: the question is too long for the model.
        """
        texts, pictures = zip(*(self._prompt(clip) for clip in clips), strict=True)
        processed = self.processor(
            text=list(texts),
            images=[list(p) for p in pictures],
            padding=True,
            padding_side="left",
            add_special_tokens=False,  # the chat template contains them
            return_tensors="pt",
        )
        length = processed["input_ids"].shape[1]
        if self.config.scoring == "generate":
            length += self.config.max_tokens
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", math.inf)
        if length > limit:
            raise InputError(
                f"{self.config.model}: found a question of {length} tokens, expected at most {limit}. "
                "Lower field 'frames', 'pixels' or 'max_tokens' of LocalVLMConfig"
            )
        dtype = self.model.dtype
        return {k: v.to(self.device, dtype if v.is_floating_point() else None) for k, v in processed.items()}

    def _prompt(self, clip: Clip) -> tuple[str, list[Image.Image]]:
        """Prompt up to the model's answer, with image placeholders, and its images."""
        frames = enlarge_to(sample_frames(clip.frames, self.config.frames), self.config.pixels)
        parts = question(
            self.rubric,
            replace(clip, frames=frames),
            criterion_of(clip, self.config.criteria),
            self.config.frames,
            self.config.sheet,
        )
        content = [
            {"type": "text", "text": part if i == 0 else f"\n{part}"} if isinstance(part, str) else {"type": "image"}
            for i, part in enumerate(parts)
        ]
        text = self.processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.processor.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        if self.config.scoring == "logprobs" and not text[-1:].isspace():
            text += " "  # after templates that end in "Assistant:"
        return text, [Image.fromarray(part) for part in parts if not isinstance(part, str)]

    # ------------------------------------------------------------ probabilities of the scores

    def _choices(self) -> tuple[Tokens, dict[float, Tokens]]:
        """Tokens shared by all answers, and the tokens after them for each score."""
        encode = self.processor.tokenizer.encode
        answers = {
            score: tuple(encode(ANSWER_PREFIX + choice, add_special_tokens=False))
            for score, choice in zip(self.rubric.scores, self.rubric.choices, strict=True)
        }
        if len(set(answers.values())) < len(answers):
            raise InputError(
                f"{self.config.model}: the tokenizer gives equal tokens for the scores "
                f"{', '.join(self.rubric.choices)}, expected one that encodes digits. Copy the whole model, or use "
                "another"
            )
        length = _shared_length(list(answers.values()))
        prefix = next(iter(answers.values()))[:length]
        return prefix, {score: tokens[length:] for score, tokens in answers.items()}

    def logprobs(self, inputs: Mapping[str, Tensor]) -> dict[float, Float[Tensor, " b"]]:
        """Log-probability of each score after the answer's prefix."""
        logprobs: dict[float, Tensor] = {}
        for context in _contexts(self._suffixes.values()):
            rows = self._next_logprobs(inputs, self._prefix + context, len(context) + 1)
            for score, suffix in self._suffixes.items():
                if suffix[:-1] == context[: len(suffix) - 1]:
                    logprobs[score] = torch.stack([rows[:, i, token] for i, token in enumerate(suffix)]).sum(0)
        return logprobs

    @torch.no_grad()
    def _next_logprobs(self, inputs: Mapping[str, Tensor], answer: Tokens, count: int) -> Float[Tensor, "b n v"]:
        """Log-probabilities of the token after each of the last `count` tokens of a partial answer."""
        tokens = torch.tensor(answer, device=self.device).expand(len(inputs["input_ids"]), -1)
        ones, zeros = torch.ones_like(tokens), torch.zeros_like(tokens)
        extra = {"input_ids": tokens, "attention_mask": ones, "mm_token_type_ids": zeros}
        extended = {k: torch.cat([v, extra[k].to(v.dtype)], 1) if k in extra else v for k, v in inputs.items()}
        logits = self.model(**extended, use_cache=False, logits_to_keep=count).logits
        return logits[:, -count:].double().log_softmax(-1)

    def _score(self, inputs: Mapping[str, Tensor]) -> list[Verdict]:
        logprobs = {score: value.tolist() for score, value in self.logprobs(inputs).items()}
        rows = [{score: logprobs[score][i] for score in self._suffixes} for i in range(len(inputs["input_ids"]))]
        return [self._verdict([answer_of(row, self._suffixes)], "log-probabilities are not finite") for row in rows]

    # ------------------------------------------------------------ written answers

    def _generate(self, inputs: Mapping[str, Tensor]) -> list[Verdict]:
        length, votes = inputs["input_ids"].shape[1], self.config.votes
        sampling = {"temperature": self.config.temperature, "top_p": 1.0, "top_k": 0}
        greedy = {"temperature": None, "top_p": None, "top_k": None}
        is_sampled = self.config.temperature > 0
        with _seeded(inputs, self.device):
            tokens = self.model.generate(
                **inputs,
                max_new_tokens=self.config.max_tokens,
                do_sample=is_sampled,
                num_return_sequences=votes,
                **(sampling if is_sampled else greedy),
            )
        rows = tokens[:, length:].tolist()
        return [self._combine(rows[i : i + votes]) for i in range(0, len(rows), votes)]

    def _text(self, row: Sequence[int]) -> str:
        """Answer up to its end token.

        Special tokens stay because they can delimit reasoning.

        Raises:
            NoScore: the answer was truncated.
        """
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        tokens = list(takewhile(lambda token: token not in ends, row))
        if len(tokens) == len(row) and ends != [None]:
            raise NoScore("cut off", f"no score in the answer: it was truncated after {len(row)} tokens (max_tokens)")
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=False)

    def _combine(self, rows: Sequence[Sequence[int]]) -> Verdict:
        answers: list[Answer | None] = []
        reason = ""
        for row in rows:
            try:
                answers.append(certain(parse(self._text(row), self.rubric)))
            except NoScore as error:
                answers.append(None)
                reason = str(error)
        return self._verdict(answers, reason)

    def _verdict(self, answers: Sequence[Answer | None], reason: str) -> Verdict:
        result = verdict(answers, self.rubric, self.config.threshold, self.config.tie)
        return result if result.error is None else replace(result, error=f"{result.error}: {reason}")


def _shared_length(sequences: Sequence[Tokens]) -> int:
    """Length of the common prefix.

    Every sequence keeps at least one token after it.

    >>> _shared_length([(5, 6, 0), (5, 6, 1)])
    2
    """
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*sequences, strict=False))
    return min(sum(1 for _ in columns), *(len(tokens) - 1 for tokens in sequences))


def answer_of(logprobs: Mapping[float, float], suffixes: Mapping[float, Tokens]) -> Answer | None:
    """Answer from the log-probabilities of each score's tokens.

    None if one is not finite.

    A score that is a prefix of another, as 0 is of 0.5, excludes the other's probability.
    """
    highest = max(logprobs.values())
    if not all(math.isfinite(x) for x in logprobs.values()):
        return None
    mass: dict[float, float] = {}
    for score in sorted(suffixes, key=lambda s: -len(suffixes[s])):
        tokens = suffixes[score]
        longer = sum(p for other, p in mass.items() if suffixes[other][: len(tokens)] == tokens)
        mass[score] = max(0.0, math.exp(logprobs[score] - highest) - longer)
    total = sum(mass.values())
    return {score: mass[score] / total for score in suffixes}


def _contexts(suffixes: Iterable[Tokens]) -> list[Tokens]:
    """Tokens before the last token of each suffix, without those that are a prefix of another."""
    contexts = {suffix[:-1] for suffix in suffixes}
    return sorted(c for c in contexts if not any(o != c and o[: len(c)] == c for o in contexts))


@contextmanager
def _seeded(inputs: Mapping[str, Tensor], device: torch.device) -> Iterator[None]:
    """Seed torch from the inputs; the global random state is restored afterwards."""
    digest = hashlib.sha256()
    for key in sorted(inputs):
        digest.update(inputs[key].float().cpu().numpy().tobytes())
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(digest.digest()[:8], "big"))
        yield


@contextmanager
def _catch_out_of_memory(batch: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"The judge ran out of GPU memory on {batch} clips at a time. Lower field 'batch', 'frames' or 'pixels' of "
            "LocalVLMConfig"
        ) from error

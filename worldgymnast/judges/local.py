"""A pretrained vision-language model as judge, in this process: Qwen2.5-VL, Qwen3-VL, SmolVLM and others.

By default the model writes nothing: its answer is begun with `Final Score: ` and the log-probability of every score of
the rubric is read, so a verdict costs one forward pass and has a probability. `scoring="generate"` lets it write, as
an endpoint would. Left out: models that bring their own code, quantised weights, a model over several GPUs. SmolVLM's
processor needs the package num2words; none needs torchvision.
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
    Asking,
    NoScore,
    check_criteria,
    criterion_of,
    parse,
    question,
    rubric,
    sample_frames,
    verdict,
    written,
)
from worldgymnast.types import Clip, Verdict
from worldgymnast.video import enlarged

Tokens = tuple[int, ...]


@checked
class LocalVLMConfig(Asking):
    """Which model judges here, and how it is asked.

    Attributes:
        model: folder of a transformers model, or its name on the hub.
        scoring: "logprobs" reads the probability of every score; "generate" lets the model write. More than one vote is
            for what is written and sampled.
        temperature: of what is written; 0 is greedy.
        max_tokens: tokens written at most; an answer cut off before its score is a missing vote.
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
        sampled = self.scoring == "generate" and self.temperature > 0
        if self.votes > 1 and not sampled:
            raise FieldError(
                "votes",
                f"found {self.votes} answers that would all be the same; set scoring='generate' and a temperature "
                "above 0, or votes=1",
            )
        if self.temperature > 0 and not sampled:
            raise FieldError("temperature", "nothing is written; set scoring='generate', or 0")


class LocalVLM:
    """A `Judge` that asks a vision-language model which it holds in memory.

    What it says about a clip depends on that clip alone, up to rounding: sampled answers are drawn from a seed made of
    the clip.
    """

    def __init__(self, config: LocalVLMConfig, device: torch.device | str = "cpu"):
        """Loads the model.

        Args:
            config: which model, and how it is asked.
            device: where it computes; bfloat16 on a GPU, float32 elsewhere.

        Raises:
            InputError: the model cannot be loaded, see `pretrained.load`, or there is no such device.
        """
        self.config = config
        self.rubric = rubric(config.rubric)
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device '{device}': found no GPU that torch can use, expected one; use 'cpu'")
        loaded = load(config.model, self.device)
        self.model, self.processor = loaded.model, loaded.processor
        self._fingerprint = loaded.fingerprint
        self._stem, self._tails = self._choices()

    @property
    def name(self) -> str:
        """The model's name and the version of the prompt."""
        return f"{Path(self.config.model).name}, {self.rubric.version}"

    @property
    def waits(self) -> bool:
        """It computes here."""
        return False

    @property
    def identity(self) -> str:
        """16 hex digits of what determines the verdicts: config, precision and the model's files."""
        asked = {k: v for k, v in asdict(self.config).items() if k not in ("batch", "model")}
        text = json.dumps([asked, str(self.model.dtype), self._fingerprint], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check(self, tasks: Iterable[tuple[str, str]]) -> None:
        """Raises `InputError` where the rubric wants a criterion and one of the (task, instruction) has none."""
        check_criteria(self.rubric, self.config.criteria, tasks)

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """One verdict per clip, in order; `score` is None where the model's answer says nothing.

        Raises:
            InputError: a criterion is missing, a clip is too long for the model, or memory does not suffice.
        """
        self.check((clip.task, clip.instruction) for clip in clips)
        one_by_one = self.config.temperature > 0  # the random numbers of a clip must not depend on its company
        size = 1 if one_by_one else self.config.batch
        verdicts: list[Verdict] = []
        for i in range(0, len(clips), size):
            inputs = self.inputs(clips[i : i + size])
            with _memory_suffices(size):
                verdicts += self._read(inputs) if self.config.scoring == "logprobs" else self._written(inputs)
        return verdicts

    # ------------------------------------------------------------ what the model is given

    def inputs(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """What the model is given about the clips: token ids, padded on the left, and pictures, on its device."""
        texts, pictures = zip(*(self._prompt(clip) for clip in clips), strict=True)
        made = self.processor(
            text=list(texts),
            images=[list(p) for p in pictures],
            padding=True,
            padding_side="left",
            add_special_tokens=False,  # the chat template wrote them
            return_tensors="pt",
        )
        found = made["input_ids"].shape[1] + (self.config.max_tokens if self.config.scoring == "generate" else 0)
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", math.inf)
        if found > most:
            raise InputError(
                f"{self.config.model}: found a question of {found} tokens, expected at most {most}; "
                "lower field 'frames', 'pixels' or 'max_tokens' of LocalVLMConfig"
            )
        dtype = self.model.dtype
        return {k: v.to(self.device, dtype if v.is_floating_point() else None) for k, v in made.items()}

    def _prompt(self, clip: Clip) -> tuple[str, list[Image.Image]]:
        """The text up to where the model's answer begins, a placeholder for each picture in it, and the pictures."""
        shown = enlarged(sample_frames(clip.frames, self.config.frames), self.config.pixels)
        parts = question(
            self.rubric,
            replace(clip, frames=shown),
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
            text += " "  # templates that end in "Assistant:" continue with a space
        return text, [Image.fromarray(part) for part in parts if not isinstance(part, str)]

    # ------------------------------------------------------------ probabilities of the scores

    def _choices(self) -> tuple[Tokens, dict[float, Tokens]]:
        """The tokens with which every answer begins, and those that follow for each score."""
        encode = self.processor.tokenizer.encode
        whole = {
            score: tuple(encode(ANSWER_PREFIX + choice, add_special_tokens=False))
            for score, choice in zip(self.rubric.scores, self.rubric.choices, strict=True)
        }
        if len(set(whole.values())) < len(whole):
            raise InputError(
                f"{self.config.model}: found a tokenizer that cannot tell the scores {', '.join(self.rubric.choices)} "
                "apart, expected one that writes digits; copy the whole model, or use another"
            )
        alike = takewhile(lambda column: len(set(column)) == 1, zip(*whole.values(), strict=False))
        shared = min(sum(1 for _ in alike), *(len(tokens) - 1 for tokens in whole.values()))
        return next(iter(whole.values()))[:shared], {score: tokens[shared:] for score, tokens in whole.items()}

    def logprobs(self, inputs: Mapping[str, Tensor]) -> dict[float, Float[Tensor, " b"]]:
        """Log-probability of each score's tokens after the answer has begun."""
        found: dict[float, Tensor] = {}
        for context in _contexts(self._tails.values()):
            rows = self._next(inputs, self._stem + context, len(context) + 1)
            for score, tail in self._tails.items():
                if tail[:-1] == context[: len(tail) - 1]:
                    found[score] = torch.stack([rows[:, i, token] for i, token in enumerate(tail)]).sum(0)
        return found

    @torch.no_grad()
    def _next(self, inputs: Mapping[str, Tensor], begun: Tokens, count: int) -> Float[Tensor, "b n v"]:
        """Log-probabilities of the token after each of the last `count` tokens of an answer begun with `begun`."""
        more = torch.tensor(begun, device=self.device).expand(len(inputs["input_ids"]), -1)
        ones, zeros = torch.ones_like(more), torch.zeros_like(more)
        extra = {"input_ids": more, "attention_mask": ones, "mm_token_type_ids": zeros}
        longer = {k: torch.cat([v, extra[k].to(v.dtype)], 1) if k in extra else v for k, v in inputs.items()}
        logits = self.model(**longer, use_cache=False, logits_to_keep=count).logits
        return logits[:, -count:].double().log_softmax(-1)

    def _read(self, inputs: Mapping[str, Tensor]) -> list[Verdict]:
        found = {score: value.tolist() for score, value in self.logprobs(inputs).items()}
        rows = [{score: found[score][i] for score in self._tails} for i in range(len(inputs["input_ids"]))]
        return [self._verdict([answer_of(row, self._tails)], "log-probabilities that are no numbers") for row in rows]

    # ------------------------------------------------------------ written answers

    def _written(self, inputs: Mapping[str, Tensor]) -> list[Verdict]:
        length, votes = inputs["input_ids"].shape[1], self.config.votes
        sampling = {"temperature": self.config.temperature, "top_p": 1.0, "top_k": 0}
        greedy = {"temperature": None, "top_p": None, "top_k": None}
        sampled = self.config.temperature > 0
        with _seeded(inputs, self.device):
            tokens = self.model.generate(
                **inputs,
                max_new_tokens=self.config.max_tokens,
                do_sample=sampled,
                num_return_sequences=votes,
                **(sampling if sampled else greedy),
            )
        rows = tokens[:, length:].tolist()
        return [self._count(rows[i : i + votes]) for i in range(0, len(rows), votes)]

    def _text(self, row: Sequence[int]) -> str:
        """What was written up to the token that ends an answer; marks of thoughts may be special tokens, so all stay.

        Raises:
            NoScore: the answer was cut off.
        """
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        own = list(takewhile(lambda token: token not in ends, row))
        if len(own) == len(row) and ends != [None]:
            raise NoScore("cut off", f"no score in the answer: it was cut off after {len(row)} tokens (max_tokens)")
        return self.processor.tokenizer.decode(own, skip_special_tokens=False)

    def _count(self, rows: Sequence[Sequence[int]]) -> Verdict:
        answers: list[Answer | None] = []
        reason = ""
        for row in rows:
            try:
                answers.append(written(parse(self._text(row), self.rubric)))
            except NoScore as error:
                answers.append(None)
                reason = str(error)
        return self._verdict(answers, reason)

    def _verdict(self, answers: Sequence[Answer | None], reason: str) -> Verdict:
        made = verdict(answers, self.rubric, self.config.threshold, self.config.tie)
        return made if made.error is None else replace(made, error=f"{made.error}: {reason}")


def answer_of(logprobs: Mapping[float, float], tails: Mapping[float, Tokens]) -> Answer | None:
    """The answer of a model that gave these log-probabilities to the tokens of each score; None where one is no number.

    A score that is the beginning of another, as 0 is of 0.5, gives up the other's share: both begin with its tokens.
    """
    highest = max(logprobs.values())
    if not all(math.isfinite(x) for x in logprobs.values()):
        return None
    mass: dict[float, float] = {}
    for score in sorted(tails, key=lambda s: -len(tails[s])):
        own = tails[score]
        longer = sum(p for other, p in mass.items() if tails[other][: len(own)] == own)
        mass[score] = max(0.0, math.exp(logprobs[score] - highest) - longer)
    total = sum(mass.values())
    return {score: mass[score] / total for score in tails}


def _contexts(tails: Iterable[Tokens]) -> list[Tokens]:
    """What must have been written before the last token of each tail; one that begins another is read with it."""
    before = {tail[:-1] for tail in tails}
    return sorted(c for c in before if not any(o != c and o[: len(c)] == c for o in before))


@contextmanager
def _seeded(inputs: Mapping[str, Tensor], device: torch.device) -> Iterator[None]:
    """Random numbers that depend on the inputs alone; the process's own stream goes on untouched."""
    digest = hashlib.sha256()
    for key in sorted(inputs):
        digest.update(inputs[key].float().cpu().numpy().tobytes())
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(digest.digest()[:8], "big"))
        yield


@contextmanager
def _memory_suffices(batch: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"the judge's model ran out of GPU memory on {batch} clips at a time; lower field 'batch', 'frames' or "
            "'pixels' of LocalVLMConfig"
        ) from error

"""Prompt of OpenVLA and its tokenizer, read from `tokenizer.json` alone."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from worldgymnast.errors import InputError
from worldgymnast.hub import first_line

BOS, STOP, SPACE = 1, 2, 29871
"""Ids that begin a text, end a reply, and stand for a lone space, which ends the prompt."""
_PADDED_TO = 32
"""Prompts are padded to a multiple of this, so the same shapes occur in rollouts and updates."""
_KNOWN = "pick up the black bowl between the plate and the ramekin and place it on the plate"
_KNOWN_WORDS = (5839, 701, 278, 4628, 12580, 29880, 1546, 278, 15284, 322, 278, 364, 420, 9089, 322, 2058, 372, 373)
_KNOWN_IDS = (
    *(BOS, 512, 29901, 1724, 3158, 881, 278, 19964, 2125, 304),
    *_KNOWN_WORDS,
    *(278, 15284, 29973, 13, 3744, 29901, SPACE),
)
"""The prompt of `_KNOWN` as Llama 2's tokenizer encodes it."""


def prompt(instruction: str) -> str:
    """Text of an instruction, in lower case and without a full stop.

    >>> prompt("Open the drawer.")
    'In: What action should the robot take to open the drawer?\\nOut:'
    """
    return f"In: What action should the robot take to {instruction.strip().rstrip('.').lower()}?\nOut:"


class PromptTokenizer:
    """Tokenizer of Llama 2 from a file.

    Args:
        path: `tokenizer.json` of the checkpoint, or its folder.

    Raises:
        InputError: the file is missing or unreadable, or is not Llama 2's tokenizer.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        self._tokenizer = _read(self.path)
        if (found := tuple(self.ids(_KNOWN))) != _KNOWN_IDS:
            at = next((i for i, (x, y) in enumerate(zip(found, _KNOWN_IDS, strict=False)) if x != y), len(found))
            raise InputError(
                f"{self.path}: encodes a known prompt differently from Llama 2's tokenizer, first at token {at}. The "
                "policy would read other sentences. Use the tokenizer.json of the checkpoint"
            )

    @property
    def hash(self) -> str:
        """First 16 hex digits of the file's SHA-256."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]

    def ids(self, instruction: str) -> list[int]:
        """Ids of the prompt of an instruction, from the beginning of the text to the last space."""
        ids = [BOS, *self._tokenizer.encode(prompt(instruction), add_special_tokens=False).ids]
        return ids if ids[-1] == SPACE else [*ids, SPACE]


@functools.cache
def _read(path: Path) -> Any:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise InputError(
            f"{path}: found no tokenizer, so no sentence can be read. Copy tokenizer.json from the checkpoint to it"
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path}: cannot be read as a tokenizer ({first_line(error)}). Copy it again") from error


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Ids of prompts with padding on the left, and which of them are no padding.

    >>> left_padded([[5, 6]])[1].sum(), left_padded([[5, 6]])[0].shape
    (tensor(2), torch.Size([1, 32]))
    """
    longest = max(map(len, prompts))
    length = -(-longest // _PADDED_TO) * _PADDED_TO
    ids = torch.zeros(len(prompts), length, dtype=torch.long)
    valid = torch.zeros(len(prompts), length, dtype=torch.bool)
    for row, tokens in enumerate(prompts):
        ids[row, length - len(tokens) :] = torch.tensor(tokens)
        valid[row, length - len(tokens) :] = True
    return ids, valid

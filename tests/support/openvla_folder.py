"""The tiny OpenVLA checkpoint of tests/data/vla/openvla as a folder in the published layout.

The original code answered the vectors beside it (VERSIONS in vectors.json). The file keeps the rows of the token
embedding that the vectors read; the others are zeros here. Llama 2's tokenizer is not free to copy, so `tokenizer.json`
is one that splits the sentences of the vectors into the same ids.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

DATA = Path(__file__).resolve().parents[1] / "data" / "vla" / "openvla"
HEADS = 2
"""Attention heads of both tiny towers; published ones have 16."""
BLOCKS = (4, 5)
"""Blocks of the tiny towers; published ones have 24 and 27."""
COMMON: Mapping[str, Any] = {"crop": "center", "bounds": "q99", "tower_heads": (HEADS, HEADS), "tower_blocks": BLOCKS}
"""Fields of a description that the files leave open."""
PARALLEL: Mapping[str, Any] = {
    "decoding": "parallel", "attention": "bidirectional", "stop_token": True, "support": "actions", "chunk": 5,
    "epsilon": 1e-8,
}  # fmt: skip
ONE_BY_ONE: Mapping[str, Any] = {
    "decoding": "autoregressive", "attention": "causal", "stop_token": False, "support": "vocabulary", "chunk": 1,
    "epsilon": 0.0,
}  # fmt: skip
"""Decoding of OpenVLA-OFT, and of OpenVLA."""
_EMBEDDING = "language_model.model.embed_tokens.weight"
_VOCABULARY = 32064
_START = {"▁In": 512, ":": 29901, "▁What": 1724, "▁action": 3158, "▁should": 881, "▁the": 278, "▁robot": 19964}
_END = {"▁take": 2125, "▁to": 304, "?": 29973, "\n": 13, "Out": 3744, "▁": 29871}
_WORDS = ("▁pick ▁up ▁the ▁black ▁bow l ▁between ▁the ▁plate ▁and ▁the ▁r am ekin ▁and ▁place ▁it ▁on ▁the ▁plate",
          "▁put ▁both ▁the ▁alphabet ▁soup ▁and ▁the ▁tom ato ▁sau ce ▁in ▁the ▁basket")  # fmt: skip


@cache
def vectors() -> dict[str, Tensor]:
    return load_file(DATA / "vectors.safetensors")


@cache
def facts() -> dict[str, Any]:
    return json.loads((DATA / "vectors.json").read_text())


@cache
def weights() -> dict[str, Tensor]:
    """All tensors of the published file, bfloat16."""
    stored = load_file(DATA / "weights.safetensors")
    rows, values = stored.pop("embedding_rows"), stored.pop("embedding")
    embedding = torch.zeros(_VOCABULARY, values.shape[1], dtype=values.dtype)
    embedding[rows] = values
    return stored | {_EMBEDDING: embedding}


def pieces() -> dict[str, int]:
    """Ids of the pieces of the vectors' sentences."""
    known = {**_START, **_END}
    for words, ids in zip(_WORDS, facts()["prompts"][:2], strict=True):
        known |= dict(zip(words.split(), ids[10:-4], strict=True))
    return known


def write_tokenizer(path: Path, words: Iterable[str] = ()) -> None:
    """Write a tokenizer that knows the sentences of the vectors, and further words."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    known = pieces()
    free = (i for i in range(1000, 31000) if i not in set(known.values()))
    known |= {f"▁{word}": next(free) for word in dict.fromkeys(words) if f"▁{word}" not in known}
    longest = "|".join(re.escape(piece) for piece in sorted(known, key=len, reverse=True))
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, **known}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(longest), "isolated")
    tokenizer.save(str(path))


def write_folder(folder: Path, *, shards: int = 1, heads: bool = False) -> Path:
    """Write the folder; with `heads` also the regression head and the projector of the state."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "dataset_statistics.json", "preprocessor_config.json"):
        shutil.copy(DATA / name, folder / name)
    write_tokenizer(folder / "tokenizer.json")
    tensors = weights()
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        write_shards(folder, tensors, shards)
    if heads:
        parts = load_file(DATA / "heads.safetensors")
        for part in ("action_head", "proprio_projector"):
            inside = {f"module.{k.removeprefix(f'{part}.')}": v for k, v in parts.items() if k.startswith(part)}
            torch.save(inside, folder / f"{part}--150000_checkpoint.pt")
    return folder


def write_shards(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    places = {name: files[i % shards] for i, name in enumerate(sorted(tensors))}
    for file in files:
        save_file({name: tensors[name] for name, place in places.items() if place == file}, folder / file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

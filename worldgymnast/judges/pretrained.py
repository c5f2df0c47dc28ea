"""Pretrained vision-language models and their processors, from a folder or a hub's name.

Frames go to these models as pictures, never as a video, and they are resized by Pillow everywhere. So a processor is
put together without its video part, which alone would need torchvision: what a judge sees is the same with and without
it. Left out: models that bring their own code, and quantised weights.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from worldgymnast.errors import InputError
from worldgymnast.hub import hub_reason
from worldgymnast.weights import some_of

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")
_PICTURE_FILES = ("preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("*.safetensors", "*.bin")
_FINGERPRINTED = {".json", ".jinja", ".txt", ".model", ".safetensors", ".bin"}
_PARTS = {"image_processor", "tokenizer", "video_processor"}
_BLOCKS, _BLOCK = 64, 4096


@dataclass(frozen=True)
class Pretrained:
    """A model, what prepares its inputs, and which of all models it is.

    Attributes:
        model: a transformers model that takes pictures and writes text, in evaluation mode.
        processor: its transformers processor, for pictures and text only.
        fingerprint: hex digits that change with the files it came from.
    """

    model: Any
    processor: Any
    fingerprint: str


def load(name: str, device: torch.device) -> Pretrained:
    """Loads a vision-language model, bfloat16 on a GPU and float32 elsewhere; a local folder needs no network.

    Args:
        name: folder, or name on the hub.
        device: where it computes.

    Raises:
        InputError: there is no such model, it takes no pictures, or a part of it is missing.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    logging.disable_progress_bar()
    source, local = _locate(name)
    config = _config(source, local)
    processor = load_processor(name)
    if local and not any(any(Path(source).glob(pattern)) for pattern in _WEIGHTS):
        raise InputError(f"{source}: found no weights, expected {' or '.join(_WEIGHTS)}; copy the whole model")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loader: Any = AutoModelForImageTextToText
    try:
        model, found = loader.from_pretrained(
            source, config=config, dtype=dtype, device_map=str(device), local_files_only=local, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = hub_reason(error, source)
        raise InputError(f"{source}: found weights that do not load ({reason}); copy the whole model") from error
    if missing := sorted(found["missing_keys"]):
        raise InputError(f"{source}: weights missing: {some_of(missing)}; copy the whole model")
    return Pretrained(model.eval(), processor, _fingerprint(Path(source)) if local else str(config._commit_hash))


def load_processor(name: str) -> Any:
    """The processor of a vision-language model, without its video part and without torchvision.

    Args:
        name: folder, or name on the hub.

    Raises:
        InputError: there is no such model, it takes no pictures, or tokenizer, picture settings or chat template are
            missing.
    """
    import transformers

    source, local = _locate(name)
    kinds: Any = transformers.PROCESSOR_MAPPING
    kind = kinds.get(type(_config(source, local)), None)
    if kind is None or not set(kind.get_attributes()) <= _PARTS:
        raise InputError(f"{source}: found a model whose processor is none of pictures and text; use another model")
    if local:
        _need_one_of(source, _TOKENIZER_FILES, "tokenizer")
        _need_one_of(source, _PICTURE_FILES, "picture settings")
    try:
        parts = {
            "image_processor": transformers.AutoImageProcessor.from_pretrained(
                source, backend="pil", local_files_only=local
            ),
            "tokenizer": transformers.AutoTokenizer.from_pretrained(source, local_files_only=local),
            "video_processor": None,
        }
        settings, _ = kind.get_processor_dict(source, local_files_only=local)
        processor = _without_video(kind).from_args_and_dict([parts[n] for n in kind.get_attributes()], settings)
    except (ImportError, OSError, ValueError) as error:  # a package is missing, or a file, or it is damaged
        raise InputError(f"{source}: found a processor that does not load: {hub_reason(error, source)}") from error
    processor.chat_template = processor.chat_template or processor.tokenizer.chat_template
    if not processor.chat_template:
        raise InputError(f"{source}: found no chat template, expected chat_template.jinja; use a model made for chats")
    return processor


def _without_video(kind: Any) -> Any:
    """The processor class with no demand for a video processor."""

    class Pictures(kind):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    return Pictures


def _locate(name: str) -> tuple[str, bool]:
    """The folder or hub name, and whether it is a folder."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder}: found no config.json, expected a transformers model; check field 'model'")
        return str(folder), True
    if folder.exists() or not _HUB_NAME.fullmatch(name):
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"{name}: found {found}, expected a folder with a transformers model; check field 'model'")
    return name, False


def _config(source: str, local: bool) -> Any:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError) as error:
        what = "found a config.json that does not load" if local else "found no such folder and no such hub model"
        raise InputError(f"{source}: {what} ({hub_reason(error, source)}); check field 'model'") from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise InputError(
            f"{source}: found model type '{config.model_type}' in config.json, expected one that takes pictures and "
            "writes text (qwen2_5_vl, qwen3_vl, smolvlm ...); check field 'model'"
        )
    return config


def _need_one_of(folder: str, names: tuple[str, ...], what: str) -> None:
    if not any((Path(folder) / name).is_file() for name in names):
        raise InputError(f"{folder}: found no {what}, expected {' or '.join(names)}; copy the whole model")


def _fingerprint(folder: Path) -> str:
    """Hash over the names, sizes and 64 evenly spaced blocks of the model's files: training again changes it."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in _FINGERPRINTED and p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for block in range(_BLOCKS):
                file.seek(max(0, size - _BLOCK) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()

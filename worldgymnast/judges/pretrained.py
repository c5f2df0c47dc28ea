"""Loader of pretrained vision-language models and their processors, from a folder or the hub.

Models get frames as images, never as video, resized by Pillow. The processor is built without its video part, which
alone needs torchvision, so a judge's input does not depend on torchvision. Not supported: models with remote code,
quantized weights.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from worldgymnast.errors import InputError
from worldgymnast.hub import check_source, hub_reason
from worldgymnast.weights import some_of

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")
_PICTURE_FILES = ("preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("*.safetensors", "*.bin")
_FINGERPRINTED = {".json", ".jinja", ".txt", ".model", ".safetensors", ".bin"}
_PARTS = {"image_processor", "tokenizer", "video_processor"}
_BLOCKS, _BLOCK = 64, 4096


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model with its processor.

    Attributes:
        model: transformers model from images to text, in evaluation mode.
        processor: its processor, for images and text only.
        fingerprint: hash of the model's files.
    """

    model: Any
    processor: Any
    fingerprint: str


def load(name: str, device: torch.device) -> Pretrained:
    """Load a vision-language model; a local folder needs no network.

    Args:
        name: folder, or name on the hub.
        device: device of the model; bfloat16 on a GPU, float32 elsewhere.

    Raises:
        InputError: the model is missing or incomplete, or it accepts no images.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    logging.disable_progress_bar()
    source, local = _locate(name)
    config = _config(source, local)
    processor = load_processor(name)
    if local and not any(any(Path(source).glob(pattern)) for pattern in _WEIGHTS):
        raise InputError(f"{source}: found no weights, expected {' or '.join(_WEIGHTS)}. Copy the whole model")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loader: Any = AutoModelForImageTextToText
    try:
        model, report = loader.from_pretrained(
            source, config=config, dtype=dtype, device_map=str(device), local_files_only=local, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = hub_reason(error, source)
        raise InputError(f"{source}: its weights cannot be loaded ({reason}). Copy the whole model") from error
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{source}: weights missing: {some_of(missing)}. Copy the whole model")
    return Pretrained(model.eval(), processor, _fingerprint(Path(source)) if local else str(config._commit_hash))


def load_processor(name: str) -> Any:
    """Load the processor of a vision-language model, without its video part and torchvision.

    Args:
        name: folder, or name on the hub.

    Raises:
        InputError: the model is missing, accepts no images, or lacks tokenizer, image settings or chat template.
    """
    import transformers

    source, local = _locate(name)
    kinds: Any = transformers.PROCESSOR_MAPPING
    kind = kinds.get(type(_config(source, local)), None)
    if kind is None or not set(kind.get_attributes()) <= _PARTS:
        raise InputError(f"{source}: its processor is not one for images and text. Use another model")
    if local:
        _require_file(source, _TOKENIZER_FILES, "tokenizer")
        _require_file(source, _PICTURE_FILES, "image settings")
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
    except (ImportError, OSError, ValueError) as error:  # a missing package, or a missing or damaged file
        raise InputError(f"{source}: its processor cannot be loaded: {hub_reason(error, source)}") from error
    processor.chat_template = processor.chat_template or processor.tokenizer.chat_template
    if not processor.chat_template:
        raise InputError(f"{source}: found no chat template, expected chat_template.jinja. Use a chat model")
    return processor


def _without_video(kind: Any) -> Any:
    """Processor class that accepts a missing video processor."""

    class ImageProcessor(kind):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    return ImageProcessor


def _locate(name: str) -> tuple[str, bool]:
    """Folder or hub name, and whether it is a folder."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder}: found no config.json, expected a transformers model. Check field 'model'")
        return str(folder), True
    check_source(name, "a transformers model (field 'model')", folder)
    return name, False


def _config(source: str, local: bool) -> Any:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError) as error:
        what = "its config.json cannot be loaded" if local else "found no such folder and no such hub model"
        raise InputError(f"{source}: {what} ({hub_reason(error, source)}). Check field 'model'") from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise InputError(
            f"{source}: found model type '{config.model_type}' in config.json, expected one from images to text "
            "(qwen2_5_vl, qwen3_vl, smolvlm ...). Check field 'model'"
        )
    return config


def _require_file(folder: str, names: tuple[str, ...], what: str) -> None:
    if not any((Path(folder) / name).is_file() for name in names):
        raise InputError(f"{folder}: found no {what}, expected {' or '.join(names)}. Copy the whole model")


def _fingerprint(folder: Path) -> str:
    """Hash of names, sizes and 64 evenly spaced blocks of the model's files.

    Retraining changes it.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in _FINGERPRINTED and p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for block in range(_BLOCKS):
                file.seek(max(0, size - _BLOCK) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()

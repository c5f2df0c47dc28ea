"""`transformers serve` as it comes, but for the processor: without its video part, which needs torchvision.

Run as: python serve_vlm.py FOLDER --host 127.0.0.1 --port PORT
"""

from __future__ import annotations

import sys
from typing import Any

from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.transformers import app

from worldgymnast.judges.pretrained import load_processor


def _processor(self: ModelManager, name: str, gguf_file: str | None = None) -> Any:
    return load_processor(name.split("@")[0])


if __name__ == "__main__":
    ModelManager._load_processor = _processor  # pyright: ignore[reportAttributeAccessIssue] - named otherwise there
    sys.argv = [sys.argv[0], "serve", *sys.argv[1:]]
    app()

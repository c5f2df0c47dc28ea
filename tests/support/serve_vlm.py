"""`transformers serve` as it comes, but for the processor: without its video part, which needs torchvision.

Run as: python serve_vlm.py FOLDER --host 127.0.0.1 --port PORT, with a pipe as its input: it ends where that closes, so
it does not outlive whoever started it.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.transformers import app

from worldgymnast.judges.pretrained import load_processor


def _processor(self: ModelManager, name: str, gguf_file: str | None = None) -> Any:
    return load_processor(name.split("@")[0])


def _end_with_the_input() -> None:
    os.read(0, 1)
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_input, daemon=True).start()
    ModelManager._load_processor = _processor  # pyright: ignore[reportAttributeAccessIssue] - named otherwise there
    sys.argv = [sys.argv[0], "serve", *sys.argv[1:]]
    app()

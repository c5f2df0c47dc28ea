"""OpenVLA-OFT and a vision-language judge on Bridge: `studies.bridge_starts` with both, at the smallest size that runs.

Writes an OpenVLA-OFT checkpoint in the published layout with random weights, teaches a tiny Qwen2.5-VL to answer by
brightness, serves it with `transformers serve`, and runs every command: `sft` of the checkpoint on BridgeData V2, world
model, and five steps of RL in `bridge-25m` with that judge. The numbers mean nothing. With published names in the place
of both models, the commands are those of docs/how-to/machines.md.

    python -m studies.bridge_openvla ../shared/data/bridge_rlds runs/bridge-openvla
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from safetensors.torch import save_file
from tyro.conf import Positional

from benchmarks.tiny_models import openvla_folder, real_server, tiny_vlm
from studies.bridge_starts import BridgeStarts
from studies.command import run
from worldgymnast.cli.main import main
from worldgymnast.episodes import formats
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.judges.local import LocalVLM, LocalVLMConfig
from worldgymnast.types import Clip

OPENVLA = {"crop": "center", "chunk": "5", "tower_heads": "[2, 2]", "tower_blocks": "[4, 5]", "lora_rank": "4"}
"""Fields that the files of the checkpoint leave open."""


@dataclass
class BridgeOpenVLA:
    """Run every command from Bridge data to RL with OpenVLA-OFT and a served judge.

    Attributes:
        data: folder of BridgeData V2 in RLDS.
        out: new folder.
    """

    data: Annotated[Positional[Path], tyro.conf.arg(metavar="DATA")]
    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT")]

    def __call__(self) -> None:
        """Write the models, serve the judge, and run the commands."""
        parts = self.out.with_name(f"{self.out.name}-parts")
        for folder in (self.out, parts):
            if folder.exists():
                raise InputError(f"{folder}: already exists. Remove it, or give a new OUT")
        checkpoint, policy, judge = parts / "openvla", parts / "openvla.json", parts / "vlm.json"
        episodes = formats.read(self.data)
        write_checkpoint(checkpoint, sorted(set(episodes.instruction)))
        fields = [f"{name}={value}" for name, value in OPENVLA.items()]
        _command("import-policy", checkpoint, "--trained-by", "openvla-oft", "--set", *fields, "--out", policy)
        with real_server.serve(teach(parts / "qwen2.5-vl", episodes), parts / "server.log") as url:
            asked = ["--endpoint.url", url, "--pixels", "0", "--frames", "3"]
            _command("judge", "vlm", parts / "qwen2.5-vl", *asked, "--out", judge)
            BridgeStarts(self.data, self.out, begin_with=policy, judge=judge, threads=1)()


def _command(*words: object) -> None:
    plain = [str(word) for word in words]
    print(f"\n$ worldgymnast {' '.join(plain)}", flush=True)
    if main(plain):
        raise InputError(f"worldgymnast {plain[0]} failed")


def teach(folder: Path, episodes: EpisodeSet) -> Path:
    """Write a model that calls a clip a success where its last frame is brighter than most; return its folder."""
    frames = np.asarray(episodes.frames)
    usual = float(np.median(frames.mean((1, 2, 3))))

    def show(bright: Sequence[int], seed: int, side: int) -> Clip:
        draw = np.random.default_rng(seed)
        shown = frames[draw.integers(0, len(frames), len(bright))].astype(int)
        aim = usual + np.where(np.asarray(bright) > 0, 1, -1) * draw.uniform(8, 60, len(bright))
        lit = shown + (aim - shown.mean((1, 2, 3)))[:, None, None, None]
        return Clip(lit.clip(0, 255).astype(np.uint8), tiny_vlm.INSTRUCTIONS[seed % 3])

    tiny_vlm.taught(folder, 300, show, max_loss=None)  # frames near the median cost much
    shown = [show([0, 0, row % 2], row, 28) for row in range(40)]
    judge = LocalVLM(
        LocalVLMConfig(str(folder), pixels=28, frames=3, criteria=dict.fromkeys(tiny_vlm.INSTRUCTIONS, ""))
    )
    right = sum(verdict.succeeded == bool(row % 2) for row, verdict in enumerate(judge.score(shown)))
    if right < 36:
        raise RuntimeError(f"the judge knows {right} of 40 clips: it did not learn")
    return folder


def write_checkpoint(folder: Path, sentences: list[str]) -> None:
    """Write a checkpoint with random weights, whose tokenizer knows the words of the sentences."""
    openvla_folder.write_folder(folder)
    words = [word for sentence in sentences for word in sentence.lower().rstrip(".").split()]
    openvla_folder.write_tokenizer(folder / "tokenizer.json", words)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.ones_like(value) if value.ndim == 1 else torch.randn(value.shape, generator=generator) * 0.2
        for name, value in openvla_folder.weights().items()
    }
    save_file({name: value.to(torch.bfloat16) for name, value in tensors.items()}, folder / "model.safetensors")


if __name__ == "__main__":
    sys.exit(run(BridgeOpenVLA, __doc__))

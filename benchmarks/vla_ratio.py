"""Ratio of rescored to sampled probabilities before the first update, for every kind of policy and precision.

Exactly 1 is what reinforcement learning assumes: the largest |ratio - 1| over 8 looks, rescored together as they were
sampled, and one at a time as an update with `--rl.trainer.micro-batch` does. Tiny checkpoints of the tests.

    python -m benchmarks.vla_ratio
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.tiny_models import openvla_folder, tiny_vla
from worldgymnast.actions import metaworld_spec
from worldgymnast.policies.flow_chain import SamplerConfig
from worldgymnast.policies.flow_vla import FlowVLA, FlowVLAConfig
from worldgymnast.policies.openvla import OpenVLA
from worldgymnast.policies.openvla_checkpoint import OpenVLACheckpoint
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.policies.tiny_smolvla import TinySmolVLA, TinySmolVLAConfig
from worldgymnast.precision import autocast
from worldgymnast.types import ActionChunk, Observation

LOOKS, SIDE, STATE = 8, 64, 3
CPU = torch.device("cpu")


def policies(folder: Path, bfloat16: bool) -> Iterator[tuple[str, Any]]:
    """Name and policy, with bfloat16 weights where the policy has that field."""
    torch.manual_seed(0)
    weights = {"weights": "bfloat16" if bfloat16 else "float32"}
    parallel = openvla_folder.PARALLEL
    checkpoint = {"checkpoint": str(folder / "openvla"), **openvla_folder.COMMON, **weights}
    yield "OpenVLA, autoregressive", OpenVLACheckpoint(**checkpoint, **openvla_folder.ONE_BY_ONE).load()
    yield "OpenVLA-OFT, parallel", OpenVLACheckpoint(**checkpoint, **parallel).load()
    cameras = {"head": "l1", "noise": 0.05, "cameras": ("image", "wrist")}
    checkpoint["checkpoint"] = str(folder / "regression")
    yield "OpenVLA-OFT, L1 head with noise", OpenVLACheckpoint(**checkpoint, **parallel, **cameras).load()
    tokenizer = tiny_vla.write_tokenizer(folder)
    fixed = {"fixed": "bfloat16"} if bfloat16 else {}
    for kind, name in (("smolvla", "SmolVLA"), ("pi0", "pi0"), ("pi05", "pi0.5")):
        for method in ("flow_sde", "flow_noise", "one_step"):
            sampler = SamplerConfig(method=method, steps=4)
            fields = {"ratio": "number", "state_dim": STATE, **fixed}
            yield f"{name}, {method}", tiny_vla.tiny_policy(kind, tokenizer, sampler, **fields)
    if not bfloat16:
        spec = metaworld_spec(6)
        yield "TinySmolVLA", TinySmolVLA(TinySmolVLAConfig(), spec)
        yield "SmallVLA", SmallVLA(SmallVLAConfig(), spec)
        yield "FlowVLA", FlowVLA(FlowVLAConfig(), spec)


def observation(policy: Any) -> Observation:
    """Noise for every camera, and a state."""
    generator = torch.Generator().manual_seed(0)
    shape = (LOOKS, SIDE, SIDE, 3)
    images = {name: torch.randint(256, shape, dtype=torch.uint8, generator=generator) for name in policy.cameras}
    known = (
        openvla_folder.facts()["prompt_instructions"] if isinstance(policy, OpenVLA) else ("open it", "shut the door")
    )
    sentences = [known[row % 2] for row in range(LOOKS)]
    size = getattr(policy.config, "state_dim", 0)
    return Observation(images, sentences, torch.rand(LOOKS, size, generator=generator) if size else None)


@torch.no_grad()
def ratio_error(policy: Any, obs: Observation, chunk: ActionChunk, looks: int = 1) -> float:
    """Largest |ratio - 1| of rescoring so many looks at a time."""
    batches = torch.arange(len(chunk.logprobs)).split(looks)
    again = torch.cat([policy.logprobs(obs.rows(rows), chunk.rows(rows)) for rows in batches])
    return (again.double() - chunk.logprobs.double().to(again.device)).expm1().abs().max().item()


def errors(policy: Any, precision: str) -> tuple[float, float]:
    """Largest |ratio - 1| of rescoring all looks together, and one at a time."""
    obs = observation(policy)
    with autocast("bf16" if precision == "bf16" else "fp32", CPU):
        chunk = policy.act(obs, temperature=1.0, generator=torch.Generator().manual_seed(1))
        return ratio_error(policy, obs, chunk, LOOKS), ratio_error(policy, obs, chunk)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    table = dict[str, dict[str, tuple[float, float]]]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        openvla_folder.write_folder(folder / "openvla")
        openvla_folder.write_folder(folder / "regression", heads=True)
        for precision in ("fp32", "bf16", "bf16 weights"):
            for name, policy in policies(folder, precision == "bf16 weights"):
                table.setdefault(name, {})[precision] = errors(policy, precision)
    print("| policy | float32 | one at a time | bfloat16 autocast | one at a time | bfloat16 weights | one at a time |")
    print("|---|---|---|---|---|---|---|")
    for name, found in table.items():
        cells = [f"{v:.1e}" if v else "0" for p in ("fp32", "bf16", "bf16 weights") for v in found.get(p, ())]
        print(f"| {name} | " + " | ".join(cells + ["" for _ in range(6 - len(cells))]) + " |")


if __name__ == "__main__":
    main()

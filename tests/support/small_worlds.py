"""World models small enough for a test, whose weights all matter."""

import torch

from worldgymnast.actions import metaworld_spec
from worldgymnast.worldmodel.autoencoder import AutoencoderConfig
from worldgymnast.worldmodel.sampler import LatentWorldModel, WorldModelConfig
from worldgymnast.worldmodel.transformer import TransformerConfig

SPEC = metaworld_spec(6)
SMALL = WorldModelConfig(
    autoencoder=AutoencoderConfig(channels=4, widths=(8, 8, 16), blocks=(0, 0, 1)),
    transformer=TransformerConfig(channels=4, grid=(8, 8), patch=2, width=32, layers=2, heads=2, window=5),
)


def randomised(config: WorldModelConfig = SMALL, seed: int = 0) -> LatentWorldModel:
    """A world whose zero-initialised weights are random too, so that every path matters."""
    torch.manual_seed(seed)
    world = LatentWorldModel(config, SPEC, 10.0).eval()
    with torch.no_grad():
        for p in world.transformer.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return world


def frames(b: int) -> torch.Tensor:
    return torch.randint(0, 256, (b, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

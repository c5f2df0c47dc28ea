"""Success head: probability that the task is done, from the world model's hidden states.

Hidden states carry more information about the outcome than the decoded picture, at no extra cost. The head is trained
together with the world model on the labels of logged episodes, also along imagined rollouts, so the world model learns
to be accurate where outcomes are decided. Reward heads do the same for Dreamer (Hafner et al. 2025).
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldgymnast.text import SENTENCE_WIDTH


class SuccessHead(nn.Module):
    """Cross-attention from the sentence to a frame's tokens, then two layers.

    Args:
        width: features of the transformer's tokens.
        hidden: hidden width of the head.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.sentence = nn.Sequential(nn.Linear(SENTENCE_WIDTH, hidden), nn.SiLU())
        self.query = nn.Linear(hidden, 4 * hidden)
        self.key = nn.Linear(width, 4 * hidden)
        self.value = nn.Linear(width, 4 * hidden)
        self.film = nn.Linear(hidden, 8 * hidden)
        self.out = nn.Sequential(nn.Linear(4 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, tokens: Float[Tensor, "b t n d"], sentence: Float[Tensor, "b s"]) -> Float[Tensor, "b t"]:
        """Log-odds that the task of `sentence` is done at each frame."""
        condition = self.sentence(sentence)[:, None]  # [b 1 h]
        x = self.norm(tokens)
        query = self.query(condition).unflatten(-1, (4, -1))  # [b 1 4 h]
        key, value = (layer(x).unflatten(-1, (4, -1)) for layer in (self.key, self.value))  # [b t n 4 h]
        score = (query[:, :, None] * key).sum(-1) * key.shape[-1] ** -0.5  # [b t n 4]
        pooled = (score.softmax(2)[..., None] * value).sum(2).flatten(-2)  # [b t 4h]
        scale, shift = self.film(condition).chunk(2, -1)
        return self.out(F.silu(pooled * (1 + scale) + shift))[..., 0]


def success_loss(
    logits: Float[Tensor, "b t"], success: Bool[Tensor, "b t"], counts: Bool[Tensor, "b t"]
) -> Float[Tensor, ""]:
    """Mean binary cross-entropy over frames where `counts` is True; 0 without any."""
    each = F.binary_cross_entropy_with_logits(logits, success.float(), reduction="none")
    return (each * counts).sum() / counts.sum().clamp(min=1)

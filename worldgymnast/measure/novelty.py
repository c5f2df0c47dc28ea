"""Detects out-of-distribution starts before any compute is spent on them.

Frames are measured by the reconstruction error of the world model's autoencoder and by the share of their colors that
the nearest known frame lacks, sentences by their similarity to the nearest known one.

The two measures of frames miss different things. An autoencoder that was trained for minutes reconstructs everything
equally badly, and one that was trained well also reconstructs simple pictures of another robot. Colors do not tell a
known scene from its mirror image.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8

from worldgymnast.evaluation.agreement import psnr
from worldgymnast.protocols import Encodes, WorldModel
from worldgymnast.text import SentenceEncoder
from worldgymnast.types import Start, StartOrLayout

FRAME_MARGIN = 1.5
"""Tolerance in dB of the reconstruction PSNR below the worst known frame. New layouts of the default suite lie within
0.5 dB, another camera or other colors 2 to 8 dB below."""
MAX_NEW_COLORS = 0.35
"""Tolerated share of a frame's colors that the nearest known frame lacks. New layouts differ by less than 0.03, light
that is 20 % weaker or stronger by 0.25 to 0.28, Meta-World from BridgeData V2 by 0.40 or more, noise by 0.5."""
COLOR_MARGIN = 0.05
"""Tolerance beyond the most unusual known frame, where known frames differ more than that."""
_LEVELS = 4
"""Levels of each color channel; a color counts for its neighboring levels in proportion."""
MIN_SENTENCE_SIMILARITY = 0.5
"""Smallest cosine similarity to the nearest known sentence. Paraphrases lie above 0.5, other languages and other tasks
below 0.45."""
NEGATIONS = frozenset(["not", "no", "never", "don't", "dont", "without", "avoid"])
"""Words that invert a sentence but hardly change its embedding: 'do not open the drawer' is as close to 'open the
drawer' as a paraphrase."""
MIN_NAME_SIMILARITY = 0.85
"""Similarity (difflib's ratio) from which a task name is probably misspelled: 'drawr-open' is, 'faucet-open' is not."""
_BATCH = 256
"""Frames encoded at a time."""


def reconstruction_psnr(world: Encodes, frames: UInt8[np.ndarray, "n h w 3"]) -> np.ndarray:
    """Return the reconstruction PSNR of each frame in dB, float [n]; low for out-of-distribution frames."""
    values = []
    for i in range(0, len(frames), _BATCH):
        part = np.ascontiguousarray(frames[i : i + _BATCH])
        values.append(psnr(part, world.reconstruct(torch.from_numpy(part)).cpu().numpy()))
    return np.concatenate(values)


def color_shares(frames: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n 64"]:
    """Share of each color in each frame.

    Levels overlap, so a little more or less light moves shares between neighbors.

    >>> white = np.full((1, 4, 4, 3), 255, np.uint8)
    >>> color_shares(white)[0].nonzero()[0].tolist(), bool(color_shares(white // 2).max() < 0.2)
    ([63], True)
    """
    return np.stack([_color_shares(frame) for frame in frames])


def _color_shares(frame: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
    positions = frame.reshape(-1, 3) / 255 * (_LEVELS - 1)
    lower = np.floor(positions).astype(int).clip(0, _LEVELS - 2)
    upper_share = positions - lower
    shares = np.zeros(_LEVELS**3)
    for corner in itertools.product((0, 1), repeat=3):
        weight = np.where(corner, upper_share, 1 - upper_share).prod(-1)
        shares += np.bincount((lower + corner) @ (_LEVELS**2, _LEVELS, 1), weight, _LEVELS**3)
    return shares / len(positions)


def new_colors(frames: UInt8[np.ndarray, "n h w 3"], known: UInt8[np.ndarray, "m h w 3"]) -> np.ndarray:
    """Share of each frame's colors that the nearest known frame lacks, float [n] from 0 to 1.

    >>> red, blue = (np.full((1, 8, 8, 3), color, np.uint8) for color in ((200, 0, 0), (0, 0, 200)))
    >>> new_colors(red, np.concatenate([blue, red])).tolist(), bool(new_colors(red, blue)[0] > 0.5)
    ([0.0], True)
    """
    return _distances(color_shares(frames), color_shares(known)).min(1)


def _distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Half the sum of the differences of shares, float [n m]."""
    return np.stack([np.abs(others - one).sum(1) / 2 for one in some])


def _color_warning(starts: Sequence[Start], known: Sequence[Start]) -> str:
    """Return a warning about frames whose colors no known frame has, or ""."""
    frames, shares = np.stack([start.frame for start in starts]), color_shares(np.stack([one.frame for one in known]))
    found = _distances(color_shares(frames), shares).min(1)
    among = _distances(shares, shares)
    np.fill_diagonal(among, np.inf)
    unusual = float(among.min(1).max()) if len(known) > 1 else 0.0
    count = int((found > max(MAX_NEW_COLORS, unusual + COLOR_MARGIN)).sum())
    if not count:
        return ""
    frame = "a frame" if len(starts) == 1 else f"{count} of {len(starts)} frames"
    return (
        f"found {frame} out of distribution for the world model: the nearest of {len(known)} known frames lacks "
        f"{found.max():.0%} of the colors of {'it' if len(starts) == 1 else 'the worst'}, and at most {unusual:.0%} of "
        "those of a known one"
    )


def frame_warning(world: WorldModel, starts: Sequence[Start], known: Sequence[Start]) -> str:
    """Return a warning about frames that are out-of-distribution for the world model, or "".

    Args:
        world: the world model.
        starts: starts to check.
        known: starts from its training distribution; without any, nothing is checked.
    """
    if not known:
        return ""
    if not isinstance(world, Encodes):
        return _color_warning(starts, known)
    values = reconstruction_psnr(world, np.stack([start.frame for start in starts]))
    lowest = float(reconstruction_psnr(world, np.stack([start.frame for start in known])).min())
    count = int((values < lowest - FRAME_MARGIN).sum())
    if not count:
        return _color_warning(starts, known)
    frames = "a frame" if len(starts) == 1 else f"{count} of {len(starts)} frames"
    return (
        f"found {frames} out of distribution for the world model: its autoencoder reconstructs "
        f"{'it' if len(starts) == 1 else 'the worst'} with {values.min():.1f} dB PSNR, and {len(known)} known frames "
        f"with at least {lowest:.1f} dB"
    )


def sentence_warning(starts: Sequence[Start], known: Sequence[str]) -> str:
    """Return a warning about sentences that policy and judge do not understand, or "".

    Args:
        starts: starts to check.
        known: known sentences; without any, nothing is checked.
    """
    if not known:
        return ""
    encode, known, new = SentenceEncoder(), sorted(set(known)), sorted({start.instruction for start in starts})
    similarity, nearest = (encode(new) @ encode(known).T).max(1)
    worst = int(similarity.argmin())
    if float(similarity[worst]) >= MIN_SENTENCE_SIMILARITY:
        return _negation_warning(new, [known[i] for i in nearest.tolist()])
    others = int((similarity < MIN_SENTENCE_SIMILARITY).sum()) - 1
    more = f" and {others} more" if others else ""
    return (
        f"found '{new[worst]}'{more}, unlike the {len(known)} known sentences; the nearest is "
        f"'{known[int(nearest[worst])]}' (similarity {float(similarity[worst]):.2f}, expected at least "
        f"{MIN_SENTENCE_SIMILARITY:g})"
    )


def _negation_warning(sentences: Sequence[str], nearest: Sequence[str]) -> str:
    """Return a warning about a sentence with a negation that its nearest known sentence lacks, or ""."""
    for sentence, close in zip(sentences, nearest, strict=True):
        if (words := _negations(sentence)) - _negations(close):
            return (
                f"found '{sentence}', whose '{min(words)}' is not understood: policy and judge treat it like '{close}'"
            )
    return ""


def _negations(sentence: str) -> frozenset[str]:
    return NEGATIONS & set(sentence.lower().replace("\u2019", "'").replace(",", " ").split())


def task_name_warning(starts: Sequence[StartOrLayout], known: Sequence[str]) -> str:
    """Return a warning about a task name that is probably misspelled, or ""."""
    for task in sorted({start.task for start in starts} - set(known)):
        if near := difflib.get_close_matches(task, known, n=1, cutoff=MIN_NAME_SIMILARITY):
            return f"found task '{task}', which resembles '{near[0]}'"
    return ""

"""Detects out-of-distribution starts before any compute is spent on them.

Frames are measured by the reconstruction error of the world model's autoencoder and by their likeness to the nearest
known frame, sentences by their similarity to the nearest known one.

The two measures of frames miss different things. An autoencoder that was trained for minutes reconstructs everything
equally badly, and one that was trained well also reconstructs simple pictures of another robot. A coarse picture does
not tell a small object, or an exchange of red and blue.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from worldgymnast.evaluation.agreement import psnr
from worldgymnast.measure.support import reduced_frames
from worldgymnast.protocols import Encodes, WorldModel
from worldgymnast.text import SentenceEncoder
from worldgymnast.types import Start, StartOrLayout

FRAME_MARGIN = 1.5
"""Tolerance in dB of the reconstruction PSNR below the worst known frame. New layouts of the default suite lie within
0.5 dB, another camera or other colors 2 to 8 dB below."""
MAX_UNLIKE = 0.5
"""Tolerated difference of a frame from the nearest known one, 1 - r of both at 8x8 pixels. In scenes of BridgeData V2,
LIBERO, Meta-World and ManiSkill, new layouts differ by up to 0.25, each from another by 0.55 or more. Light does not
count."""
UNLIKE_MARGIN = 0.05
"""Tolerance beyond the most unusual known frame, where known frames differ more than that."""
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


def unlikeness(frames: UInt8[np.ndarray, "n h w 3"], known: UInt8[np.ndarray, "m h w 3"]) -> np.ndarray:
    """Difference of each frame from the nearest known one, float [n] from 0 (the same) to 2; 1 is unrelated.

    It is 1 - r, with Pearson's r over the values of both frames at 8x8 pixels. More or less light changes nothing.

    >>> left = np.zeros((1, 16, 16, 3), np.uint8)
    >>> left[:, :, :8] = 200
    >>> unlikeness(np.concatenate([left // 2, left[:, :, ::-1]]), left).round(2).tolist()
    [0.0, 2.0]
    """
    return _differences(_standardized(frames), _standardized(known)).min(1)


def _standardized(frames: np.ndarray) -> np.ndarray:
    """Frames at 8x8 pixels with mean 0 and norm 1, float [n d]; a uniform frame is 0."""
    reduced = reduced_frames(frames).astype(np.float64)
    reduced -= reduced.mean(1, keepdims=True)
    return reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-6)


def _differences(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    return 1.0 - some @ others.T


def unlike_warning(starts: Sequence[Start], known: Sequence[Start]) -> str:
    """Return a warning about frames unlike every known one, or "".

    Args:
        starts: starts to check.
        known: starts from the training distribution, at least one.
    """
    reference = _standardized(np.stack([one.frame for one in known]))
    found = _differences(_standardized(np.stack([start.frame for start in starts])), reference).min(1)
    among = _differences(reference, reference)
    np.fill_diagonal(among, np.inf)
    unusual = float(among.min(1).max()) if len(known) > 1 else 0.0
    count = int((found > max(MAX_UNLIKE, unusual + UNLIKE_MARGIN)).sum())
    if not count:
        return ""
    frame = "a frame" if len(starts) == 1 else f"{count} of {len(starts)} frames"
    return (
        f"found {frame} out of distribution for the world model: {'it' if len(starts) == 1 else 'the worst'} differs "
        f"from the nearest of {len(known)} known frames by {found.max():.2f} (1 - r at 8x8 pixels), and a known one "
        f"from the others by at most {unusual:.2f}"
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
        return unlike_warning(starts, known)
    values = reconstruction_psnr(world, np.stack([start.frame for start in starts]))
    lowest = float(reconstruction_psnr(world, np.stack([start.frame for start in known])).min())
    count = int((values < lowest - FRAME_MARGIN).sum())
    if not count:
        return unlike_warning(starts, known)
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

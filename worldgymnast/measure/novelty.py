"""Detects out-of-distribution starts before any compute is spent on them.

Frames are measured by the reconstruction error of the world model's autoencoder, sentences by their similarity to the
nearest known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from worldgymnast.evaluation.agreement import psnr
from worldgymnast.protocols import Encodes, WorldModel
from worldgymnast.text import SentenceEncoder
from worldgymnast.types import Start, StartOrLayout

FRAME_MARGIN = 1.5
"""Tolerance in dB of the reconstruction PSNR below the worst known frame. New layouts of the default suite lie within
0.5 dB, another camera or other colors 2 to 8 dB below."""
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


def frame_warning(world: WorldModel, starts: Sequence[Start], known: Sequence[Start]) -> str:
    """Return a warning about frames that are out-of-distribution for the world model, or "".

    Args:
        world: the world model.
        starts: starts to check.
        known: starts from its training distribution; without any, nothing is checked.
    """
    if not known or not isinstance(world, Encodes):
        return ""
    values = reconstruction_psnr(world, np.stack([start.frame for start in starts]))
    lowest = float(reconstruction_psnr(world, np.stack([start.frame for start in known])).min())
    count = int((values < lowest - FRAME_MARGIN).sum())
    if not count:
        return ""
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

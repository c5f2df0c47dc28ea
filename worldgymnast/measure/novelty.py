"""Starts unlike all that world, policy and judge were trained on: to be told before anything is spent on them.

A frame is measured by what the world's autoencoder keeps of it, a sentence by its likeness to the nearest known one.
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
from worldgymnast.types import Start

FRAME_MARGIN = 1.5
"""dB by which the autoencoder may keep a frame worse than any known one before it is called strange: new layouts of the
default suite lie within 0.5, another camera or other colours 2 to 8 dB below."""
SENTENCE_LIKENESS = 0.5
"""Cosine to the nearest known sentence below which one is called strange: paraphrases lie above 0.5, other languages
and other tasks below 0.45."""
NEGATIONS = frozenset(["not", "no", "never", "don't", "dont", "without", "avoid"])
"""Words that turn a sentence into its opposite and hardly move its vector: 'do not open the drawer' is as near to 'open
the drawer' as a paraphrase."""
NAME_LIKENESS = 0.85
"""Share of equal characters (difflib's ratio) from which on a name is a slip: 'drawr-open' is, 'faucet-open' not."""
_PIECE = 256
"""Frames that are coded at a time."""


def kept(world: Encodes, frames: UInt8[np.ndarray, "n h w 3"]) -> np.ndarray:
    """PSNR in dB, float [n], of what the world's encoding keeps of each frame: low where it was never trained."""
    found = []
    for i in range(0, len(frames), _PIECE):
        part = np.ascontiguousarray(frames[i : i + _PIECE])
        found.append(psnr(part, world.reconstruct(torch.from_numpy(part)).cpu().numpy()))
    return np.concatenate(found)


def strange_frames(world: WorldModel, starts: Sequence[Start], known: Sequence[Start]) -> str:
    """Why a world model is not to be believed from some frames on, or nothing; `known` are like its training's."""
    if not known or not isinstance(world, Encodes):
        return ""
    own = kept(world, np.stack([start.frame for start in starts]))
    lowest = float(kept(world, np.stack([start.frame for start in known])).min())
    strange = int((own < lowest - FRAME_MARGIN).sum())
    if not strange:
        return ""
    which = "a frame" if len(starts) == 1 else f"{strange} of {len(starts)} frames"
    return (
        f"found {which} unlike those that the world model knows: its autoencoder keeps {own.min():.1f} dB of "
        f"{'it' if len(starts) == 1 else 'the worst'}, and {lowest:.1f} dB or more of {len(known)} known ones"
    )


def strange_sentences(starts: Sequence[Start], known: Sequence[str]) -> str:
    """Why some sentence is not to be understood by policy and judge, or nothing; so where none is known."""
    if not known:
        return ""
    encode, sentences, asked = SentenceEncoder(), sorted(set(known)), sorted({s.instruction for s in starts})
    likeness, nearest = (encode(asked) @ encode(sentences).T).max(1)
    worst = int(likeness.argmin())
    if float(likeness[worst]) >= SENTENCE_LIKENESS:
        for sentence, close in zip(asked, nearest.tolist(), strict=True):
            if (denied := _negations(sentence)) - _negations(sentences[close]):
                return (
                    f"found '{sentence}', whose '{min(denied)}' is not understood: policy and judge take it for "
                    f"'{sentences[close]}'"
                )
        return ""
    others = int((likeness < SENTENCE_LIKENESS).sum()) - 1
    more = f" and {others} more" if others else ""
    return (
        f"found '{asked[worst]}'{more}, unlike the {len(sentences)} known sentences; "
        f"the nearest is '{sentences[int(nearest[worst])]}' (likeness {float(likeness[worst]):.2f}, expected "
        f"{SENTENCE_LIKENESS:g} or more)"
    )


def _negations(sentence: str) -> frozenset[str]:
    return NEGATIONS & set(sentence.lower().replace("\u2019", "'").replace(",", " ").split())


def misspelt(starts: Sequence[Start], known: Sequence[str]) -> str:
    """Which task's name is nearly that of a known task and none of them, or nothing."""
    for task in sorted({start.task for start in starts} - set(known)):
        if near := difflib.get_close_matches(task, known, n=1, cutoff=NAME_LIKENESS):
            return f"found task '{task}', which is nearly '{near[0]}'"
    return ""

"""Writes what can be known of a training without a real environment to its run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worldgymnast.measure.offline import References, measure_offline
from worldgymnast.protocols import Policy
from worldgymnast.records import OFFLINE, with_hash
from worldgymnast.surrogates.imagination import ImaginedSurrogate
from worldgymnast.types import Start
from worldgymnast.weights import to_json, write_text


def write_offline(
    out: Path,
    policies: tuple[Policy, Policy],
    surrogate: ImaginedSurrogate,
    starts: Sequence[Start],
    references: References | None,
    *,
    horizon: int,
    temperature: float,
    rows: int = 96,
    seed: int = 0,
) -> None:
    """Measure a finished training (see `measure.offline.measure_offline`), and write OUT/offline.json."""
    results = measure_offline(
        policies,
        surrogate,
        starts,
        references,
        horizon=horizon,
        temperature=temperature,
        rows=rows,
        seed=seed,
    )
    write_text(out / OFFLINE, to_json(with_hash(results)))

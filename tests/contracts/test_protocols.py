"""A class that stands for a Protocol has its methods, with its parameters in its order; others may follow."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from worldgymnast import protocols
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.judges.combined import CalibratedJudge, Cascade, Ensemble
from worldgymnast.judges.foreseen import ForeseenJudge
from worldgymnast.judges.local import LocalVLM
from worldgymnast.judges.vlm import VLMJudge
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.scenes.cutouts import Cutouts
from worldgymnast.scenes.inpainting import Inpainting
from worldgymnast.scenes.remote import RemoteEditor
from worldgymnast.surrogates.pool import LocalPool
from worldgymnast.worldmodel.sampler import LatentWorldModel

KEPT = [
    *((kind, protocols.Judge) for kind in (SuccessClassifier, CalibratedJudge, Cascade, Ensemble, ForeseenJudge)),
    *((kind, protocols.Judge) for kind in (LocalVLM, VLMJudge)),
    *((kind, protocols.Editor) for kind in (Cutouts, Inpainting, RemoteEditor)),
    *((LatentWorldModel, each) for each in (protocols.WorldModel, protocols.RoundTrip, protocols.PredictsSuccess)),
    (LatentWorldModel, protocols.PredictsState),
    (SmallVLA, protocols.Policy),
    (LocalPool, protocols.RolloutPool),
]


def methods(protocol: type) -> Iterator[tuple[str, inspect.Signature]]:
    for name, value in vars(protocol).items():
        if inspect.isfunction(value) and not name.startswith("_"):
            yield name, inspect.signature(value)


def shape(signature: inspect.Signature) -> list[tuple[str, inspect._ParameterKind, bool]]:
    """Name and kind of each parameter, and whether it may be left out."""
    return [(p.name, p.kind, p.default is not p.empty) for p in signature.parameters.values()]


@pytest.mark.parametrize(("kind", "protocol"), KEPT, ids=lambda each: each.__name__)
def test_a_class_takes_what_its_protocol_says(kind: type, protocol: type) -> None:
    promised = list(methods(protocol))
    assert promised
    for name, signature in promised:
        own = getattr(kind, name, None)
        assert own is not None, f"{kind.__name__} has no {name}"
        wanted, found = shape(signature), shape(inspect.signature(own))
        assert found[: len(wanted)] == wanted, f"{kind.__name__}.{name}"
        assert all(optional for _, _, optional in found[len(wanted) :]), f"{kind.__name__}.{name}"

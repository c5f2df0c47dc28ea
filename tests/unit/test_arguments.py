"""Which components implement a Protocol, on every version of Python."""

from __future__ import annotations

import inspect

import pytest
from torch import nn

import worldgymnast as wg
from worldgymnast.arguments import implements
from worldgymnast.protocols import Judge, TrainableJudge, TrainablePolicy, TrainableWorld


class Foreign(nn.Module):
    """World model whose autoencoder is a submodule, which `inspect.getattr_static` does not find."""

    def __init__(self):
        super().__init__()
        self.autoencoder = nn.Identity()


def test_submodules_and_buffers_count_as_members():
    world, judge = wg.load_world(wg.starter("world")), wg.load_judge(wg.starter("judge"))
    assert implements(world, TrainableWorld)
    assert implements(judge, TrainableJudge)
    assert implements(wg.load_policy(wg.starter("policy")), TrainablePolicy)
    assert not implements(judge, TrainableWorld)
    assert not implements(world, Judge)


def test_beartype_accepts_what_only_a_module_has():
    world, judge = wg.load_world(wg.starter("world")), wg.load_judge(wg.starter("judge"))
    assert isinstance(world, TrainableWorld)
    assert isinstance(judge, TrainableJudge)
    assert "autoencoder" in dict(world.named_children())
    assert "threshold" in dict(judge.named_buffers())


def test_isinstance_would_miss_a_submodule_from_python_3_12_on():
    with pytest.raises(AttributeError):
        inspect.getattr_static(Foreign(), "autoencoder")
    assert hasattr(Foreign(), "autoencoder")

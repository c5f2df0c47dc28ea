"""Several cameras in one frame, and the rule for pictures of another shape."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from worldgymnast.errors import InputError
from worldgymnast.preprocessing import RULES, check_rule, fit, resize
from worldgymnast.tiling import Box, Tiling, compose, composed_tiling


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("sizes", [{"a": (8, 8)}, {"a": (8, 8), "b": (8, 12)}, {"a": (6, 8), "b": (6, 4), "c": (6, 6)}])
@pytest.mark.parametrize("lead", [(), (3,), (2, 5)])
def test_untile_inverts_tile(sizes: dict[str, tuple[int, int]], lead: tuple[int, ...]) -> None:
    tiling = Tiling.side_by_side(sizes)
    pictures = {name: noise(*lead, *size, 3) for name, size in sizes.items()}
    frame = tiling.tile(pictures)
    assert frame.shape == (*lead, *tiling.size, 3)
    for name, part in tiling.untile(frame).items():
        np.testing.assert_array_equal(part, pictures[name])
    tensors = {name: torch.from_numpy(picture) for name, picture in pictures.items()}
    assert torch.equal(tiling.tile(tensors), torch.from_numpy(frame))
    assert torch.equal(tiling.untile(torch.from_numpy(frame))["a"], tensors["a"])


def test_boxes_anywhere_in_the_frame() -> None:
    tiling = Tiling((8, 8), {"top": Box(0, 0, 4, 8), "corner": Box(5, 6, 3, 2)})
    frame = tiling.tile({"top": noise(4, 8, 3), "corner": noise(3, 2, 3)})
    assert frame[4].max() == 0
    assert tiling.untile(frame, ["corner"])["corner"].shape == (3, 2, 3)


def test_json_and_pickle_and_hash() -> None:
    tiling = Tiling.side_by_side({"front": (48, 64), "hand": (96, 96)}).resized((32, 64))
    for copy in (Tiling.from_json(tiling.to_json()), pickle.loads(pickle.dumps(tiling))):
        assert copy == tiling
        assert hash(copy) == hash(tiling)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"size": [8]}', '{"size": [8, 8], "boxes": {"a": [1, 2]}}'])
def test_unreadable_json(text: str) -> None:
    with pytest.raises(InputError, match=r"world\.safetensors"):
        Tiling.from_json(text, "world.safetensors")


@pytest.mark.parametrize(
    "boxes",
    [{}, {"a": (0, 0, 9, 8)}, {"a": (0, 0, 0, 8)}, {"a": (-1, 0, 4, 4)}, {"a": (0, 0, 4, 4), "b": (3, 3, 2, 2)}],
)
def test_impossible_boxes(boxes: dict[str, tuple[int, int, int, int]]) -> None:
    with pytest.raises(InputError, match="tiling"):
        Tiling((8, 8), {name: Box(*box) for name, box in boxes.items()})


def test_errors_name_the_camera() -> None:
    tiling = Tiling.side_by_side({"front": (8, 8), "hand": (8, 8)})
    with pytest.raises(InputError, match=r"'hnd'.*Did you mean 'hand'"):
        tiling.untile(noise(8, 16, 3), ["hnd"])
    with pytest.raises(InputError, match="no picture of camera hand"):
        tiling.tile({"front": noise(8, 8, 3)})
    with pytest.raises(InputError, match="'top' is not in the frame"):
        tiling.tile({"front": noise(8, 8, 3), "hand": noise(8, 8, 3), "top": noise(8, 8, 3)})
    with pytest.raises(InputError, match="8x8 pixels, expected 8x16"):
        tiling.untile(noise(8, 8, 3))
    with pytest.raises(InputError, match="float32"):
        tiling.tile({"front": noise(8, 8, 3), "hand": noise(8, 8, 3).astype(np.float32)})


@pytest.mark.parametrize("size", [None, 16, (16, 48), (12, 5)])
@pytest.mark.parametrize("rule", RULES)
def test_compose_has_the_size_of_its_tiling(size: int | tuple[int, int] | None, rule: str) -> None:
    pictures = {"front": noise(24, 32, 3), "hand": noise(40, 40, 3), "top": noise(10, 30, 3)}
    frame = compose(pictures, size, rule)  # pyright: ignore[reportArgumentType]
    tiling = composed_tiling({name: picture.shape[:2] for name, picture in pictures.items()}, size)
    assert frame.shape == (*tiling.size, 3)
    assert list(tiling.untile(frame)) == list(pictures)


def test_squash_is_todays_joined_picture() -> None:
    front, hand = noise(24, 32, 3), noise(40, 40, 3)
    joined = np.concatenate([front, resize(hand, (24, 24))], axis=1)
    np.testing.assert_array_equal(compose({"front": front, "hand": hand}), joined)
    np.testing.assert_array_equal(compose({"front": front, "hand": hand}, 16), resize(joined, 16))


def test_rules() -> None:
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200
    assert fit(wide, 8, "crop").min() == 200
    padded = fit(wide, 8, "pad")
    assert padded[:2].max() == 0 == padded[6:].max()
    np.testing.assert_array_equal(padded[2:6], resize(wide, (4, 8)))
    np.testing.assert_array_equal(fit(wide, 8, "squash"), resize(wide, 8))
    with pytest.raises(InputError, match="squash, crop, pad"):
        check_rule("stretch")

"""Agreement measures against values worked out by hand."""

import math

import numpy as np
import pytest

from worldgymnast.evaluation.agreement import (
    PSNR_CEILING,
    auroc,
    balanced_accuracy,
    fidelity_by_horizon,
    mmrv,
    pearson,
    psnr,
    spearman,
    ssim,
    success_gap,
    true_negative_rate,
    true_positive_rate,
)
from worldgymnast.evaluation.success import Rate


def frames(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_psnr_by_hand() -> None:
    a = np.zeros((2, 4, 4, 3), np.uint8)
    b = a.copy()
    b[0] = 255
    b[1, 0, 0, 0] = 48  # squared error 2304 / 48 numbers = 48
    assert psnr(a, b) == pytest.approx([0.0, 10 * math.log10(255**2 / 48)])
    assert psnr(a, a).tolist() == [math.inf, math.inf]
    assert psnr(b, a) == pytest.approx(psnr(a, b))  # no wrap-around of uint8
    with pytest.raises(ValueError, match="expected uint8 of equal shapes"):
        psnr(a, b.astype(np.float32))


def test_ssim_of_flat_frames_is_the_luminance_term() -> None:
    a, b = np.full((16, 16, 3), 100, np.uint8), np.full((16, 16, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))
    noise = frames(2, 16, 16)
    assert ssim(noise, noise) == pytest.approx([1.0, 1.0])
    assert (ssim(noise, frames(2, 16, 16, seed=1)) < 0.2).all()
    assert ssim(noise, noise[:, :, ::-1]) == pytest.approx(ssim(noise[:, :, ::-1], noise))


def test_ssim_weighs_by_the_gaussian_of_the_paper() -> None:
    a, b = frames(11, 11), frames(11, 11, seed=1)
    offset = np.arange(11) - 5.0
    line = np.exp(-(offset**2) / (2 * 1.5**2))
    weights = np.outer(line, line)[..., None] / np.outer(line, line).sum()
    x, y = a.astype(float), b.astype(float)
    mx, my = (weights * x).sum((0, 1)), (weights * y).sum((0, 1))
    vx, vy = (weights * (x - mx) ** 2).sum((0, 1)), (weights * (y - my) ** 2).sum((0, 1))
    cov = (weights * (x - mx) * (y - my)).sum((0, 1))
    c1, c2 = 2.55**2, 7.65**2
    expected = ((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
    assert ssim(a, b) == pytest.approx(expected)
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(a[:10], b[:10])


def test_fidelity_ignores_the_start_and_knows_its_baselines() -> None:
    real = np.zeros((3, 4, 4, 4, 3), np.uint8)
    real[:, 1:] = 10
    imagined = real.copy()
    imagined[:, 3] = 15
    found = fidelity_by_horizon(real, imagined, shuffled=np.zeros_like(real))
    assert found["horizon"].tolist() == [1, 2, 3]
    assert found["psnr"] == pytest.approx([PSNR_CEILING, PSNR_CEILING, 20 * math.log10(255 / 5)])
    assert found["copy"] == pytest.approx([20 * math.log10(25.5)] * 3)
    assert found["shuffled"] == pytest.approx(found["copy"])
    assert found["psnr_low"] == pytest.approx(found["psnr"])


def test_rates_of_a_judge() -> None:
    truth = [True, True, True, True, False, False, False]
    said = [True, True, True, False, False, True, None]
    assert true_positive_rate(said, truth) == Rate(3, 4)
    assert true_negative_rate(said, truth) == Rate(1, 2, errors=1)
    found = balanced_accuracy(said, truth)
    assert found.value == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found.low < found.value < found.high
    assert math.isnan(balanced_accuracy([True], [True]).value)


def test_auroc_by_hand() -> None:
    assert auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    assert auroc([0.5, 0.5, 0.5], [True, False, True]) == 0.5
    assert auroc([0.2, 0.5, 0.5, 0.9], [False, False, True, True]) == pytest.approx(3.5 / 4)
    assert math.isnan(auroc([0.5], [True]))


def test_correlations_by_hand() -> None:
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0]
    assert pearson(x, y).value == pytest.approx(0.8)
    assert spearman(x, np.exp(y)).value == pytest.approx(0.8)
    exact = pearson(x, 3 * np.array(x) + 1)
    assert (exact.low, exact.value, exact.high) == pytest.approx((1.0, 1.0, 1.0))
    loose = pearson(x, y)
    assert loose.low < 0.8 <= loose.high <= 1
    assert pearson(x, y) == loose
    assert math.isnan(pearson([0.5] * 4, x[:4]).value)
    assert math.isnan(pearson([0.5], [0.5]).value)


def test_mmrv_worked_example() -> None:
    real, imagined = [0.1, 0.5, 0.9], [0.3, 0.2, 0.8]
    # Policies 1 and 2 are swapped: each has a worst violation of 0.4; policy 3 has none.
    assert mmrv(imagined, real).value == pytest.approx((0.4 + 0.4 + 0) / 3)
    assert mmrv(real, real).value == 0
    # Reversed: the worst of 1 is against 3 (0.8), of 2 against 1 or 3 (0.4), of 3 against 1 (0.8).
    assert mmrv(real[::-1], real).value == pytest.approx((0.8 + 0.4 + 0.8) / 3)


def test_an_optimistic_world_has_a_positive_gap() -> None:
    real = [False] * 10 + [True] * 10
    gap = success_gap([True] * 20, real)
    assert gap.mean == 0.5
    assert gap.low > 0
    assert success_gap(real, real).mean == 0

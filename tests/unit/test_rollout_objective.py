"""Advantages and the clipped loss against numbers worked out by hand, and failed judgements that change nothing."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trainable import Trainable

from worldgymnast.actions import ActionSpec, metaworld_spec
from worldgymnast.rl.objective import ObjectiveConfig, advantages, has_signal, policy_loss, rewards, token_mask
from worldgymnast.rl.trainer import Trainer, TrainerConfig
from worldgymnast.types import IMAGE, ActionChunk, Metrics, Observation, Rollout, RolloutGroup, Start, Verdict

CONFIG = ObjectiveConfig(clip_low=0.2, clip_high=0.28)
LOOKS, CHUNK, AXES, SIZE = 3, 2, 4, 4
START = Start(np.zeros((SIZE, SIZE, 3), np.uint8), "open the drawer", "drawer-open", 0)


# ---------------------------------------------------------------- advantages and signal


def test_advantages_by_hand() -> None:
    # mean 1/4, population variance (9/16 + 3/16) / 4 = 3/16
    found = advantages(np.array([1.0, 0.0, 0.0, 0.0]), 0.0)
    np.testing.assert_allclose(found, [math.sqrt(3), *[-1 / math.sqrt(3)] * 3], rtol=1e-12)
    # mean 1/2, deviation 1/2, epsilon 1/2: the difference itself
    np.testing.assert_allclose(advantages(np.array([1.0, 0.0]), 0.5), [0.5, -0.5])


def test_advantages_of_equal_scores_are_zero() -> None:
    np.testing.assert_array_equal(advantages(np.ones(4), 1e-6), np.zeros(4))


def rollout(score: float | None, seed: int = 0, looks: int = LOOKS, probability: float | None = None) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 5, (LOOKS, CHUNK, AXES), generator=generator)
    logprobs = torch.log(torch.rand(tokens.shape, generator=generator) * 0.5 + 0.25)
    images = torch.randint(0, 256, (LOOKS, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8).numpy()
    error = "timed out" if score is None else None
    return Rollout(
        start=START,
        images={IMAGE: images},
        chunks=ActionChunk(torch.zeros(tokens.shape), tokens, logprobs, 1.0),
        frames=np.concatenate([images, images[-1:]]),
        verdict=Verdict(score, probability, error=error),
        looks_until_success=looks,
    )


def group(*scores: float | None) -> RolloutGroup:
    return RolloutGroup(START, [rollout(score, seed) for seed, score in enumerate(scores)])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1.0, 0.0], True),
        ([1.0, 1.0, 1.0], False),  # all alike
        ([0.0, 0.0, 0.0], False),
        ([0.5, 0.5], False),  # all alike within bounds
        ([1.0], False),  # nobody to compare with
        ([], False),
        ([1.0] + [0.0] * 9, True),  # mean on the bound
        ([1.0] + [0.0] * 10, False),  # below it
        ([0.0] + [1.0] * 9, True),
        ([0.0] + [1.0] * 10, False),
        ([1.0, None, None], False),  # one verdict left
        ([1.0, 0.0, None], True),
    ],
)
def test_which_groups_carry_signal(scores: list[float | None], expected: bool) -> None:
    assert has_signal(group(*scores), ObjectiveConfig(mean_low=0.1, mean_high=0.9)) is expected


def test_a_success_earns_the_belief_in_it_and_a_failure_nothing() -> None:
    said = [(1.0, 0.99), (1.0, 0.6), (0.0, 0.3), (None, None), (1.0, None)]
    judged = RolloutGroup(START, [rollout(s, i, probability=p) for i, (s, p) in enumerate(said)])
    np.testing.assert_array_equal(rewards(judged, ObjectiveConfig(reward="belief")), [0.99, 0.6, 0, 1])
    np.testing.assert_array_equal(rewards(judged, ObjectiveConfig(reward="verdict")), [1, 1, 0, 1])


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.6, 0.8, 0.7], True),  # all judged done, none of them surely
        ([0.99, 0.98, 0.97], False),  # all surely done: above the upper bound
        ([0.7, 0.7, 0.7], False),
    ],
)
def test_a_group_of_successes_carries_signal_while_the_judge_is_unsure(
    probabilities: list[float], expected: bool
) -> None:
    judged = RolloutGroup(START, [rollout(1.0, i, probability=p) for i, p in enumerate(probabilities)])
    assert has_signal(judged, ObjectiveConfig(reward="belief")) is expected
    assert not has_signal(judged, ObjectiveConfig(reward="verdict"))


def test_one_unsure_success_among_many_failures_still_counts() -> None:
    judged = RolloutGroup(START, [rollout(1.0, 0, probability=0.5), *(rollout(0.0, i) for i in range(1, 8))])
    assert has_signal(judged, ObjectiveConfig(mean_low=0.1))


def test_a_failed_verdict_leaves_group_and_statistics() -> None:
    found = group(1.0, None, 0.0, None, 0.0)
    assert found.scores.tolist() == [1.0, 0.0, 0.0]
    assert found.judge_errors == 2
    np.testing.assert_array_equal(advantages(found.scores, 1e-6), advantages(group(1.0, 0.0, 0.0).scores, 1e-6))


# ---------------------------------------------------------------- the loss


def tokens(values: list[list[float]]) -> Tensor:
    """[r n] as [r n 1 1]."""
    return torch.tensor(values)[:, :, None, None]


def loss_of(
    ratios: list[list[float]], advantage: list[float], mask: list[list[bool]] | None = None, total: float | None = None
) -> tuple[Tensor, Metrics, Tensor]:
    """Loss, metrics, and the log-probabilities that were given, with their gradient."""
    old = torch.full((len(ratios), len(ratios[0]), 1, 1), math.log(0.25))
    new = (old + tokens(ratios).log()).requires_grad_()
    shown = torch.ones(len(ratios), len(ratios[0]), dtype=torch.bool) if mask is None else torch.tensor(mask)
    loss, metrics = policy_loss(new, old, torch.tensor(advantage), shown, total or len(ratios), CONFIG)
    loss.backward()
    assert new.grad is not None
    return loss.detach(), metrics, new.grad[:, :, 0, 0]


def test_both_sides_are_clipped_by_hand() -> None:
    # gain +1: min(1.5, 1.28) = 1.28 and 1.0, mean 1.14; gain -1: min(-0.5, -0.8) = -0.8 and min(-2, -1.28) = -2
    loss, metrics, gradient = loss_of([[1.5, 1.0], [0.5, 2.0]], [1.0, -1.0])
    assert loss == pytest.approx(-(1.14 - 1.4) / 2)
    assert metrics["clip_fraction"] == pytest.approx(2 / 4)
    assert metrics["ratio"] == pytest.approx(5 / 4)
    assert metrics["ratio_error"] == pytest.approx(1.0)
    # a clipped token gets none; the others -gain * ratio / tokens / rollouts
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.25], [0.0, 0.5]]))


def test_the_pessimistic_side_is_not_clipped() -> None:
    loss, metrics, gradient = loss_of([[0.5], [1.5]], [1.0, -1.0])
    assert loss == pytest.approx(-(0.5 - 1.5) / 2)
    assert metrics["clip_fraction"] == 0.0
    torch.testing.assert_close(gradient, torch.tensor([[-0.25], [0.75]]))


def test_the_upper_clip_is_the_wider_one() -> None:
    inside, outside = loss_of([[1.27]], [1.0]), loss_of([[1.29]], [1.0])
    assert inside[0] == pytest.approx(-1.27)
    assert outside[0] == pytest.approx(-1.28)
    below = loss_of([[0.75]], [-1.0])
    assert below[0] == pytest.approx(0.8)


def test_before_the_first_update_the_loss_is_minus_the_mean_advantage() -> None:
    loss, metrics, _ = loss_of([[1.0, 1.0], [1.0, 1.0]], [1.5, -0.5])
    assert loss == pytest.approx(-0.5)
    assert metrics == {"ratio": 1.0, "ratio_error": 0.0, "clip_fraction": 0.0}


def test_looks_after_success_get_no_gradient_and_no_weight() -> None:
    mask = token_mask([1, 2], 2)
    assert mask.tolist() == [[True, False], [True, True]]
    loss, metrics, gradient = loss_of([[1.1, 1.25], [0.9, 1.2]], [1.0, -1.0], mask.tolist())
    # rollout 0: 1.1 over one look; rollout 1: -(0.9 + 1.2) / 2
    assert loss == pytest.approx(-(1.1 - 1.05) / 2)
    assert metrics["ratio"] == pytest.approx((1.1 + 0.9 + 1.2) / 3)
    assert metrics["ratio_error"] == pytest.approx(0.2)
    torch.testing.assert_close(gradient, torch.tensor([[-0.55, 0.0], [0.225, 0.3]]))


def test_every_rollout_weighs_the_same_whatever_its_length() -> None:
    for looks in (1, 2, 4):
        mask = token_mask([looks], 4).tolist()
        _, _, gradient = loss_of([[1.0] * 4], [1.0], mask)
        assert gradient.sum() == pytest.approx(-1.0)


def test_chunk_and_axes_are_averaged_too() -> None:
    shape = (1, 2, 3, 4)
    loss, _ = policy_loss(
        torch.zeros(shape), torch.zeros(shape), torch.tensor([2.0]), torch.ones(1, 2, dtype=torch.bool), 1, CONFIG
    )
    assert loss == pytest.approx(-2.0)


def test_a_rollout_without_looks_counts_nothing() -> None:
    loss, metrics, gradient = loss_of([[1.5, 1.5]], [1.0], [[False, False]])
    assert loss == 0.0
    assert all(math.isfinite(value) for value in metrics.values())
    assert not gradient.any()


def test_micro_batches_add_up_to_the_whole() -> None:
    ratios, gains = [[1.1, 0.7], [0.9, 1.4], [1.3, 1.0]], [1.0, -0.5, 0.3]
    whole = loss_of(ratios, gains)
    parts = [loss_of([row], [gain], total=3) for row, gain in zip(ratios, gains, strict=True)]
    assert sum(float(part[0]) for part in parts) == pytest.approx(float(whole[0]))
    torch.testing.assert_close(torch.cat([part[2] for part in parts]), whole[2])


# ---------------------------------------------------------------- an outage in the middle of training


class TinyPolicy(Trainable):
    """Five tokens an axis, from the mean colour of the image."""

    action_spec: ActionSpec = metaworld_spec(6)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, CHUNK * AXES * 5)

    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        raise NotImplementedError

    def logprobs(self, obs: Observation, chunk: ActionChunk) -> Tensor:
        colour = obs.image.float().mean((1, 2)) / 255
        logits = self.head(colour).unflatten(1, (CHUNK, AXES, 5)).log_softmax(-1)
        return logits.gather(-1, chunk.sample[..., None])[..., 0]

    def loss(self, batch: object) -> tuple[Tensor, Metrics]:
        raise NotImplementedError


def train(groups: list[RolloutGroup], kl: float = 0.0) -> tuple[Metrics, dict[str, Tensor]]:
    """Two updates from `groups`: metrics and final weights."""
    policy = TinyPolicy()
    trainer = Trainer(policy, TrainerConfig(lr=1e-2, updates=2, micro_batch=2, objective=ObjectiveConfig(kl=kl)))
    metrics = trainer.update(groups, torch.Generator().manual_seed(1))
    return metrics, {name: value.clone() for name, value in policy.state_dict().items()}


def test_the_learning_rate_rises_with_every_optimiser_step() -> None:
    """Adam's first step moves a weight by the rate itself, so how far it moves tells the rate."""
    start, groups = TinyPolicy().state_dict(), [group(1.0, 0.0)]
    moved = []
    for warmup in (0, 1, 4):
        policy = TinyPolicy()
        trainer = Trainer(policy, TrainerConfig(lr=1e-2, warmup=warmup, updates=1, micro_batch=2))
        trainer.update(groups, torch.Generator().manual_seed(1))
        moved.append(max(float((value - start[name]).abs().max()) for name, value in policy.state_dict().items()))
        for done in range(2, 6):
            trainer.update(groups, torch.Generator().manual_seed(1))
            assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * min(1.0, done / max(warmup, 1)))
    assert moved == pytest.approx([1e-2, 1e-2, 2.5e-3], rel=1e-3)


def without_failures(found: RolloutGroup) -> RolloutGroup:
    return RolloutGroup(found.start, [r for r in found.rollouts if r.verdict.score is not None])


def test_a_judge_outage_changes_no_reward_and_no_weight() -> None:
    struck = [group(1.0, None, 0.0, 0.0), group(0.0, 1.0, None, None), group(None, None, None, None)]
    metrics, weights = train(struck)
    clean_metrics, clean_weights = train([without_failures(g) for g in struck])
    assert metrics["reward"] == pytest.approx(2 / 5)
    assert metrics["judge_error_rate"] == pytest.approx(7 / 12)
    assert clean_metrics["judge_error_rate"] == 0.0
    for name, value in weights.items():
        assert torch.equal(value, clean_weights[name]), name
    start = TinyPolicy().state_dict()
    assert any(not torch.equal(weights[name], start[name]) for name in start)


def test_groups_without_signal_are_counted_and_train_nothing() -> None:
    metrics, weights = train([group(1.0, 1.0), group(0.0, 0.0), group(None, 1.0)])
    assert metrics["groups"] == 3
    assert metrics["zero_advantage_groups"] == 1.0
    for name, value in TinyPolicy().state_dict().items():
        assert torch.equal(weights[name], value), name
    assert train([group(1.0, 0.0), group(1.0, 1.0)])[0]["zero_advantage_groups"] == pytest.approx(0.5)


def test_a_kl_term_covers_groups_without_signal() -> None:
    silent = [group(1.0, 1.0), group(0.0, 0.0)]
    start = TinyPolicy().state_dict()
    metrics, weights = train(silent, kl=0.2)
    assert metrics["zero_advantage_groups"] == 1.0
    assert metrics["kl_to_start"] == 0.0
    assert all(torch.equal(weights[name], start[name]) for name in start), "nothing to pull back: no step on rounding"

    moved = TinyPolicy()
    for weight in moved.parameters():
        weight.data.add_(0.5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
    config = TrainerConfig(lr=1e-2, warmup=0, updates=1, micro_batch=2, objective=ObjectiveConfig(kl=0.2))
    trainer = Trainer(moved, config, start=TinyPolicy())
    distances = [trainer.update(silent, torch.Generator().manual_seed(1))["kl_to_start"] for _ in range(20)]
    assert distances[-1] < 0.5 * distances[0], distances

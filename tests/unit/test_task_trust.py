"""Trust per task: one whose imagined successes are not real loses its reward; a policy that loses one is not kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from worldgymnast.evaluation.keeping import choose_step
from worldgymnast.evaluation.task_trust import Scoring, Standing, TrustConfig, paired_evidence, standings, trust_metrics

CONFIG = TrustConfig()


def scoring(step: int, **tasks: str) -> Scoring:
    """Of each task a word of pairs, imagined and real: "tt" is a claim that is real, "tf" one that is not."""
    rows = [(task, i, pair) for task, word in tasks.items() for i, pair in enumerate(word.split())]
    outcome = {"t": True, "f": False, "?": None}
    return Scoring(
        step,
        tuple(f"{task}/{i}" for task, i, _ in rows),
        tuple(task for task, _, _ in rows),
        tuple(outcome[pair[0]] for _, _, pair in rows),
        tuple(outcome[pair[1]] for _, _, pair in rows),
    )


FAILING, HONEST, NOTHING = "tf tf tf tf ff ff ff ff", "tt tt tt tf ff ff ff ff", "ff ff ff ff ff ff ff ff"


def latest(history: Sequence[Scoring]) -> dict[str, Standing]:
    return standings(history, CONFIG)[-1]


# ---------------------------------------------------------------- the rule


def test_a_task_whose_claims_fail_is_held_and_another_is_not() -> None:
    history = [scoring(0, door=FAILING, plate=HONEST)]
    assert latest(history)["door"].held is None, "before training there is nothing to lose"
    history.append(scoring(8, door=FAILING, plate=HONEST))
    now = latest(history)
    assert (now["door"].held, now["door"].since) == ("claims", 8)
    assert now["door"].claims_fail == pytest.approx(1 - 0.5**7)  # 4 + 4 / 2 denied, none confirmed
    assert now["plate"].held is None
    assert latest([scoring(0, door=NOTHING), scoring(8, door="tf tf ff ff ff ff ff ff")])["door"].held is None


def test_a_held_task_is_redeemed_by_later_scorings() -> None:
    history = [scoring(0, door=NOTHING), scoring(8, door=FAILING)]
    assert latest([*history, scoring(16, door="tt tf ff ff ff ff ff ff")])["door"].since is None
    again = [*history, scoring(16, door=FAILING)]
    assert latest(again)["door"].since == 8
    assert latest([*again, scoring(24, door=NOTHING)])["door"].held == "claims"
    assert latest([*again, scoring(24, door="tt tt tt tt tt ff ff ff")])["door"].held is None


def test_denied_claims_do_no_harm_where_real_success_grows_or_the_world_is_no_optimist() -> None:
    growing = [scoring(0, window=NOTHING), scoring(8, window="tt tf tf tf tf tf tf tf")]
    assert latest(growing)["window"].held is None
    unlucky = [scoring(0, window="tf tf tf tf ft ft ft ft"), scoring(8, window="tf tf tf tf ft ft ft ft")]
    assert latest(unlucky)["window"].held is None


def test_real_success_that_is_lost_holds_a_task_whatever_is_imagined() -> None:
    before = scoring(0, door="tt tt tt tt ff ff ff ff")
    lost = scoring(8, door="ff ff ff ff ff ff ff ff")
    now = latest([before, lost])["door"]
    assert (now.held, now.lost) == ("loss", pytest.approx(1 - 0.5**5))
    one_back = scoring(8, door="ff ff ff ff ff ff ff ft")
    assert latest([before, one_back])["door"].held is None
    back = scoring(16, door="tt tt tt tt ff ff ff ff")
    assert latest([before, lost, back])["door"].held == "loss", "2 of 4 losses are remembered"
    assert latest([before, lost, back, replace(back, step=24), replace(back, step=32)])["door"].held is None


def test_starts_are_paired_by_their_key_and_what_is_unknown_counts_for_nothing() -> None:
    before, after = scoring(0, door="tt tf ff"), scoring(8, door="tf tt t?")
    shuffled = replace(after, **{k: getattr(after, k)[::-1] for k in ("starts", "tasks", "imagined", "real")})
    for found in (after, shuffled):
        change = paired_evidence(before, found)["door"]
        assert (change.wins, change.losses, change.ties, change.errors) == (1, 1, 0, 1)
    assert paired_evidence(before, replace(after, starts=("x", "y", "z")))["door"].count == 0
    assert Scoring.from_json(json.loads(json.dumps(after.to_json()))) == after


def test_what_is_logged_has_the_task_in_its_name_unless_there_is_one() -> None:
    two = scoring(8, door="tf tf ff ?f", plate="tt ft ff ff")
    assert two.metrics() == pytest.approx({
        "imagined_success/door": 2 / 3, "real_success/door": 0.0, "gap/door": 2 / 3,
        "imagined_success/plate": 0.25, "real_success/plate": 0.5, "gap/plate": -0.25,
    })  # fmt: skip
    logged = trust_metrics(latest([two]))
    assert sorted(logged) == [f"{name}/{task}" for name in ("held", "lost", "trust") for task in ("door", "plate")]
    alone = scoring(8, **{"": "tf tt"})
    assert alone.metrics() == {}
    assert sorted(trust_metrics(latest([alone]))) == ["held", "lost", "trust"]


# ---------------------------------------------------------------- what is kept


def real(step: int, **won: str) -> Scoring:
    """Real outcomes of each task alone, as a word of t and f."""
    return scoring(step, **{task: " ".join(f"f{x}" for x in word) for task, word in won.items()})


def test_the_best_step_is_kept_unless_it_loses_a_task() -> None:
    start = real(0, door="tttttfff", plate="ffffffff")
    lossy, safe = real(8, door="ffffffff", plate="tttttttt"), real(16, door="tttttfff", plate="ttttffff")
    assert choose_step([start, safe, replace(safe, step=24)]).step == 24, "a tie goes to the later step"
    found = choose_step([start, replace(safe, step=8), replace(lossy, step=16)])
    assert (found.step, found.real, found.start) == (8, 9 / 16, 5 / 16)
    assert str(found) == (
        "kept step 8: 56% real success, 31% before (4 starts won, 0 lost, evidence 6.2 to 1); step 16 was refused: it "
        "loses door (0 won, 5 lost)"
    )
    assert choose_step([start, lossy, replace(lossy, step=16)]).step == 0


def test_a_loss_counts_at_its_own_step_and_is_corrected_for_the_number_of_tasks() -> None:
    start = real(0, door="tttttfff", plate="ffffffff")
    lossy, recovered = real(8, door="ffffffff", plate="tttttttt"), real(16, door="tttttfff", plate="ttttffff")
    assert choose_step([start, lossy, recovered]).step == 16
    alone, together = real(8, door="tfffffff"), real(8, door="tfffffff", plate="tttttttt")
    assert choose_step([real(0, door="tttttfff"), alone]).step == 0, "four lost of one task"
    assert choose_step([start, together]).step == 8, "four lost of one of two tasks"


def test_the_start_policy_is_replaced_only_on_evidence() -> None:
    start, luckier = real(0, door="tttfffff", plate="ffffffff"), real(8, door="ttffffff", plate="ttffffff")
    found = choose_step([start, luckier])
    assert found.step == 0
    assert str(found) == (
        "kept the start policy: 19% real success; step 8 was rejected: 2 starts won and 1 lost are "
        "evidence 0.92, below 1"
    )
    assert choose_step([start, luckier], evidence=0.9).step == 8
    better = real(8, door="tttfffff", plate="tttfffff")
    assert (choose_step([start, better]).step, choose_step([start, better], evidence=5).step) == (8, 0)
    elsewhere = replace(better, starts=tuple(f"new {key}" for key in better.starts))
    assert "none of its starts was evaluated before" in str(choose_step([start, elsewhere]))
    with pytest.raises(ValueError, match="history is empty"):
        choose_step([])


def test_a_policy_that_is_no_better_rarely_replaces_the_start_policy() -> None:
    rng = np.random.default_rng(0)

    def rate(change: float, count: int = 100) -> float:
        kept = 0
        for _ in range(count):
            words = [
                ["".join("t" if x else "f" for x in rng.random(8) < p) for _ in "abcdef"] for p in (0.4, 0.4 + change)
            ]
            history = [real(8 * i, **dict(zip("abcdef", each, strict=True))) for i, each in enumerate(words)]
            kept += choose_step(history).step > 0
        return kept / count

    assert rate(0.0) < 0.25
    assert rate(-0.1) < 0.05
    assert rate(0.3) > 0.85

"""Metrics of metrics.jsonl: title, unit and meaning of every key.

A key such as `gap/drawer-open` is the metric `gap` of one task; runs with a single task have no such keys. The prefix
`last_` marks the newest of several updates of one step. The report takes its titles from here, and the documentation
its table; a test compares both with what runs write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Unit = Literal["", "0..1", "-1..1", "nats", "nats per token", "s", "1/s", "dB"]
_LAST = "last_"


@dataclass(frozen=True)
class Metric:
    """A logged number.

    Attributes:
        title: title of its chart, without the unit.
        meaning: one sentence, or less.
        unit: of the value; "" for counts and plain numbers. NaN (null in the file) means that nothing was measured.
    """

    title: str
    meaning: str
    unit: Unit = ""

    @property
    def label(self) -> str:
        """Title with the unit, where the title does not name it."""
        return f"{self.title}, {self.unit}" if self.unit.startswith("nats") else self.title

    @property
    def is_share(self) -> bool:
        """Whether the value is shown as percent."""
        return self.unit == "0..1"


GROUPS: Mapping[str, Mapping[str, Metric]] = {
    "Every row": {
        "step": Metric("Step", "number of finished updates (rl), steps (trainings) or rounds (iter-sft)"),
        "time": Metric("Time", "Unix time of the row", "s"),
    },
    "RL: reward": {
        "reward": Metric("Imagined reward", "mean score of the judged rollouts of the step", "0..1"),
        "success": Metric("Imagined success", "share of judged rollouts that succeed; also by task", "0..1"),
        "groups": Metric("Groups", "starts with a group of rollouts"),
        "zero_advantage_groups": Metric(
            "Groups without signal", "share of groups without different rewards, or outside the bounds", "0..1"
        ),
        "groups_without_verdicts": Metric("Groups without verdicts", "groups with fewer than two verdicts"),
        "staleness": Metric("Staleness", "updates between the weights that acted and the newest; with --rl.ahead"),
        "held_groups": Metric("Groups on hold", "groups of tasks on hold; they give no reward"),
        "judge_error_rate": Metric("Failed judgements", "share of rollouts whose judgement failed", "0..1"),
    },
    "RL: update": {
        "ratio": Metric("Probability ratio", "mean ratio of new to old token probabilities, in the first update"),
        "ratio_error": Metric(
            "Largest ratio error", "largest distance of a ratio from 1; rounding, in an on-policy step"
        ),
        "clip_fraction": Metric("Clip fraction", "share of tokens whose gradient is clipped", "0..1"),
        "entropy": Metric("Entropy", "of the policy, estimated from the sampled tokens", "nats per token"),
        "kl_to_start": Metric("KL to the start policy", "estimated from the sampled tokens", "nats per token"),
        "kl_to_anchor": Metric(
            "KL to the anchors of tasks on hold", "estimated from tokens that the anchor sampled", "nats per token"
        ),
    },
    "RL: filters": {
        "rollouts": Metric("Rollouts", "imagined rollouts; logged when uncertain ones are dropped"),
        "uncertain": Metric("Uncertain rollouts", "rollouts dropped because they are uncertain"),
        "uncertain_rate": Metric("Share of uncertain rollouts", "dropped rollouts of all", "0..1"),
        "verified": Metric("Verified successes", "judged successes that were imagined again"),
        "flipped": Metric("Flipped successes", "judged successes that fail when imagined again"),
        "flipped_rate": Metric(
            "Successes that fail when imagined again", "flipped successes of the verified ones", "0..1"
        ),
        "outside_rate": Metric(
            "Imagined rollouts outside the data", "share of rollouts outside the support of the real data", "0..1"
        ),
    },
    "RL: time": {
        "imagined_frames_per_second": Metric(
            "Imagined frames per second", "per second of imagination and judging", "1/s"
        ),
        "seconds_imagine": Metric("Seconds of imagination", "policy and world model", "s"),
        "seconds_judge": Metric("Seconds waiting for verdicts", "after imagination ended", "s"),
        "seconds_collect": Metric("Seconds of rollouts", "imagination and judging", "s"),
        "seconds_update": Metric("Seconds of the update", "including the KL divergence", "s"),
    },
    "Evaluations": {
        "imagined_success": Metric("Imagined success", "of the greedy policy on the evaluation's starts", "0..1"),
        "real_success": Metric("Real success", "of the greedy policy on the same starts", "0..1"),
        "gap": Metric("Gap", "imagined minus real success; above 0, imagination is too optimistic", "-1..1"),
        "gap_low": Metric("Gap, lower end", "of its 95 % interval", "-1..1"),
        "gap_high": Metric("Gap, upper end", "of its 95 % interval", "-1..1"),
        "agreement": Metric("Agreement", "share of starts with the same outcome imagined and real", "0..1"),
        "kept_step": Metric("Kept step", "step whose weights would be the result now"),
        "best_step": Metric("Best step", "step or round whose weights are the result; in summary.json"),
        "trust": Metric("Trust", "1 minus the probability that a task's imagined successes are not real", "0..1"),
        "lost": Metric("Lost", "probability that real success is below the start policy's", "0..1"),
        "held": Metric("On hold", "1 where a task is on hold and gives no reward, else 0"),
    },
    "Workers (--pool ray), since the beginning": {
        "pool/workers": Metric("Workers", "processes that roll out"),
        "pool/units": Metric("Finished groups", "groups whose result counts"),
        "pool/queued": Metric("Waiting groups", "groups that no worker has begun"),
        "pool/requeued": Metric("Repeated groups", "groups given to another worker after a failure or a lost result"),
        "pool/restarts": Metric("New workers", "workers started in the place of dead or slow ones"),
        "pool/backups": Metric("Backups", "groups of slow workers that an idle worker rolled out, too"),
        "pool/duplicates": Metric("Second results", "results of groups that had one already; they do not count"),
        "pool/errors": Metric("Errors of workers", "groups on which a worker raised an error"),
        "pool/rate": Metric("Rate of a worker", "groups per second since the row before, as pool/rate/WORKER", "1/s"),
        "pool/bytes": Metric("Bytes", "bytes of the results that reached the driver"),
    },
    "Checks of judged successes": {
        "audit_claims": Metric("Audited successes", "judged successes of a step that the audit judge checked"),
        "audit_denied": Metric("Rejected successes", "audited successes that the audit judge calls failures"),
        "audit_errors": Metric("Failed audits", "judged successes on which the audit judge gave no verdict"),
        "audit_denied_share": Metric(
            "Judged successes rejected by the audit judge", "rejected ones of the audited successes", "0..1"
        ),
        "real_claims": Metric("Successes tried for real", "imagined successes of an evaluation with a real outcome"),
        "real_denied": Metric("Successes that fail for real", "imagined successes whose start fails for real"),
        "real_errors": Metric("Unknown real outcomes", "imagined successes without a real outcome"),
        "real_denied_share": Metric(
            "Imagined successes that fail for real", "failures of the successes tried for real", "0..1"
        ),
    },
    "Trainings": {
        "loss": Metric("Loss", "of the trained part: policy, autoencoder, world model or judge"),
        "lr": Metric("Learning rate", "of the last optimizer step"),
        "gradient_norm": Metric("Gradient norm", "before clipping; in RL, of the first update of a step"),
        "seconds": Metric("Seconds", "since this start of the training", "s"),
        "wait": Metric("Wait", "share of the time since the row before that was spent waiting for batches", "0..1"),
        "token_accuracy": Metric("Token accuracy", "share of action tokens that the policy ranks first", "0..1"),
        "psnr": Metric("PSNR", "peak signal-to-noise ratio of the autoencoder's pictures", "dB"),
        "relative_error": Metric("Relative error", "world model's error divided by that of predicting no change"),
        "success_loss": Metric("Success loss", "cross-entropy of the world model's success head", "nats"),
        "state_loss": Metric("State loss", "of the world model's state head"),
        "accuracy": Metric("Accuracy", "share of clips that the judge classifies correctly", "0..1"),
        "apart": Metric("Error to the target", "distillation: squared error of the student to the teacher's target"),
        "wrong": Metric("Error to the truth", "distillation: squared error of the student to the true frame"),
    },
    "Iterated imitation": {
        "imitated": Metric("Imitated rollouts", "imagined successes that the round imitates"),
        "imagined_frames": Metric("Imagined frames", "frames that the round imagined"),
    },
}
"""All metrics, by subject."""
METRICS: Mapping[str, Metric] = {key: metric for group in GROUPS.values() for key, metric in group.items()}
BY_TASK = frozenset({"success", "imagined_success", "real_success", "gap", "trust", "lost", "held"})
"""Metrics that are also logged by task, as KEY/TASK."""
UPDATES = frozenset(GROUPS["RL: update"]) | {"gradient_norm"}
"""Metrics of the first update of a step; with several updates, those of the newest are `last_KEY`."""


RATE = "pool/rate"
"""Metric that is logged for each worker, as KEY/WORKER."""


def find(key: str) -> Metric | None:
    """Look up a key of metrics.jsonl; None for an unknown one.

    >>> find("gap/drawer-open").title, find("last_ratio").title, find("gap_x")
    ('Gap', 'Probability ratio, last update', None)
    """
    base, slash, _ = key.partition("/")
    if slash and base in BY_TASK:
        return METRICS[base]
    if key.startswith(f"{RATE}/"):
        return METRICS[RATE]
    rest = key.removeprefix(_LAST)
    if rest != key and rest in UPDATES:
        return replace(METRICS[rest], title=f"{METRICS[rest].title}, last update")
    return METRICS.get(key)

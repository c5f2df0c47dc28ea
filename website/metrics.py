"""Reference of the logged metrics, from the table in `worldgymnast.metrics`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from website.markdown import cell, code, page, table
from worldgymnast.metrics import BY_TASK, GROUPS, UPDATES, Metric


def metrics_page() -> str:
    """Return the page of all metrics."""
    intro = (
        "Every run writes `metrics.jsonl`: one JSON object per line, with these keys. TensorBoard and, with `--tracker "
        "wandb`, [Weights & Biases](../how-to/trackers.md) show the same under the same names. `null` means that "
        "nothing was measured. A row has only the keys of what happened in its step: evaluations, for example, are "
        "every `--rl.evaluate-every` steps."
    )
    by_task = ", ".join(code(f"{key}/TASK") for key in sorted(BY_TASK))
    rules = (
        f"With two or more tasks, some are also logged by task: {by_task}. With `--rl.trainer.updates` above 1, "
        f"the keys {', '.join(map(code, sorted(UPDATES)))} are those of the first update of a step, and "
        "`last_KEY` those of the last."
    )
    blocks = []
    for title, group in GROUPS.items():
        blocks += [f"## {title}", table(["key", "unit", "title in the report: meaning"], _rows(group))]
    return page("Logged metrics", intro, rules, *blocks)


def _rows(group: Mapping[str, Metric]) -> Iterator[tuple[str, str, str]]:
    for key, metric in group.items():
        yield code(key), metric.unit, cell(f"{metric.title}: {metric.meaning}.")

"""Table of one policy's real success, where there is no second policy to compare it with."""

from __future__ import annotations

from collections.abc import Sequence

from worldgymnast.evaluation.success import EpisodeResult, Rate, mean_over_tasks
from worldgymnast.report.world import Sheet


def sheet(results: Sequence[EpisodeResult]) -> Sheet:
    """Make the table: success per task, and the equally weighted mean over tasks, with 95 % intervals."""
    tasks = list(dict.fromkeys(result.task for result in results))
    rows = [[task, str(Rate.of(one.success for one in results if one.task == task))] for task in tasks]
    rows.append(["mean over tasks", str(mean_over_tasks(results, tasks))])
    return Sheet("Real success of the policy, 95 % intervals", ["task", "success"], rows)

"""Contract checks for custom policies, world models, judges and environments.

They verify behavior, not names, like `gymnasium.utils.env_checker`. Each check takes seconds, and raises
`ContractError` with the violation, its consequence and the fix.
"""

from __future__ import annotations

from worldgymnast.testing.contract import ContractError
from worldgymnast.testing.environments import check_environment, describe_environment, inspect_environment
from worldgymnast.testing.judges import check_judge
from worldgymnast.testing.policies import check_policy, check_sight, observation
from worldgymnast.testing.worlds import check_world

__all__ = [
    "ContractError",
    "check_environment",
    "check_judge",
    "check_policy",
    "check_sight",
    "check_world",
    "describe_environment",
    "inspect_environment",
    "observation",
]

"""References to environments: `gym:ID`, `module:factory`, and how other libraries' environments speak.

A preset is the part of a `GymnasiumConfig` that all environments of one library share.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from worldgymnast.errors import InputError

_MANISKILL_SPEC = {
    "axes": ["x", "y", "z", "roll", "pitch", "yaw", "gripper"],
    "unit": "0.1m-0.1rad",
    "rotation": "rpy",
    "gripper": "none",
    "rate": 20.0,
}
"""`pd_ee_delta_pose`: 1.0 is 10 cm and -0.1 rad a control step at 20 Hz; gripper 1 is open, -1 is closed. ManiSkill
3.0.1 scales rotations by their lower bound, so their sign is inverted."""

PREFIXES: Mapping[str, Mapping[str, Any]] = {
    "gym": {},
    "lerobot": {
        "adapter": "lerobot",
        "image_key": "pixels",
        "state_key": "agent_pos",
        "success_key": "is_success",
    },
    "maniskill": {
        "adapter": "maniskill",
        "imports": ["mani_skill.envs"],
        "image_key": "sensor_data.*.rgb",
        "state_key": "agent.qpos",
        "success_key": "success",
        "spec": _MANISKILL_SPEC,
    },
    "stable-worldmodel": {
        "imports": ["stable_worldmodel"],
        "image_key": "info:pixels",
        "success_key": "terminated",
    },
    "inspect-robots": {"adapter": "inspect-robots", "image_key": "images", "state_key": "state"},
    "rlinf": {
        "image_key": "main_images",
        "state_key": "states",
        "success_key": "success_once",
        "layout": "argument:reset_state_ids",
    },
}
"""Presets by the first word of a reference."""
_ARGUMENTS = {"lerobot": "TYPE", "inspect-robots": "NAME"}
"""What follows the first word of a reference, if it is no ID."""
_FACTORIES = ("inspect-robots", "rlinf")
"""Presets whose argument is `module:factory`, where no registry of Gymnasium knows the environment."""
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def resolve_reference(reference: str, kinds: Sequence[str]) -> dict[str, Any]:
    """Fields of a `GymnasiumConfig` for a reference.

    Args:
        reference: `PREFIX:ARGUMENT`, or `module:factory`.
        kinds: names of the other kinds, for messages.

    Raises:
        InputError: the reference is unknown.

    >>> resolve_reference("my_robot.sim:make", [])
    {'factory': 'my_robot.sim:make'}
    >>> resolve_reference("gym:gym_pusht/PushT-v0", [])
    {'id': 'gym_pusht/PushT-v0'}
    """
    word, colon, argument = reference.partition(":")
    if word in PREFIXES and argument:
        is_factory = word in _FACTORIES and bool(_FACTORY.fullmatch(argument))
        return dict(PREFIXES[word]) | {"factory" if is_factory else "id": argument}
    if colon and word not in PREFIXES and _FACTORY.fullmatch(reference):
        return {"factory": reference}
    known = [
        *(kind for kind in kinds if kind != "gymnasium"),
        *(f"{prefix}:{_ARGUMENTS.get(prefix, 'ID')}" for prefix in PREFIXES),
    ]
    near = difflib.get_close_matches(reference, [*kinds, *PREFIXES], n=1, cutoff=0.6)
    hint = f"; did you mean '{near[0]}'?" if near and near[0] != word else ""
    raise InputError(
        f"--env: found '{reference}', expected {', '.join(known)}, module:factory or a description FILE.json{hint}"
    )

"""Arithmetic of the conversions in `actions`: units, grippers and rotations."""

from __future__ import annotations

import numpy as np

LIBERO_SCALE = np.array([0.05] * 3 + [0.5] * 3)
"""Meters and radians of 1.0 in LIBERO, per control step."""
BRIDGE_OPEN = 0.8
"""A gripper of Bridge above this is open, as in WorldGym."""
BRIDGE_LIMITS = np.array([0.05] * 3 + [0.25] * 3)
WORLDGYM_LIMITS = np.array([1.75] * 3 + [1.4] * 3)


def is_opening(gripper: str, numbers: np.ndarray, threshold: float) -> np.ndarray:
    """Whether each number of a gripper axis opens it; `threshold` divides the two sides of 0 to 1."""
    if gripper == "open_1":
        return numbers > threshold
    return numbers < (threshold if gripper == "open_0" else 0.0)


def gripper_numbers(gripper: str, opening: np.ndarray) -> np.ndarray:
    """Numbers of a gripper axis that open or close it."""
    opened, closed = {"open_1": (1.0, 0.0), "open_0": (0.0, 1.0)}.get(gripper, (-1.0, 1.0))
    return np.where(opening, opened, closed)


def libero_to_meters(motion: np.ndarray, hold: int) -> np.ndarray:
    """Meters, roll, pitch and yaw [... 6] that LIBERO's numbers [... 6] command in `hold` control steps."""
    scaled = motion * LIBERO_SCALE * hold
    return np.concatenate([scaled[..., :3], matrix_to_rpy(vector_to_matrix(scaled[..., 3:]))], -1)


def meters_to_libero(motion: np.ndarray, hold: int) -> np.ndarray:
    """Inverse of `libero_to_meters`, clipped to [-1, 1]."""
    vector = matrix_to_vector(rpy_to_matrix(motion[..., 3:].astype(np.float64)))
    return np.clip(np.concatenate([motion[..., :3], vector], -1) / (LIBERO_SCALE * hold), -1.0, 1.0)


def bridge_to_worldgym(actions: np.ndarray) -> np.ndarray:
    """WorldGym's numbers [... 10] of Bridge's [... 7]."""
    motion = np.clip(actions[..., :6], -BRIDGE_LIMITS, BRIDGE_LIMITS) / BRIDGE_LIMITS * WORLDGYM_LIMITS
    gripper = np.where(actions[..., 6:7] > BRIDGE_OPEN, -1.0, 1.0)
    return np.concatenate([motion, gripper, np.zeros((*actions.shape[:-1], 3))], -1).astype(np.float32)


def worldgym_to_bridge(actions: np.ndarray) -> np.ndarray:
    """Bridge's numbers [... 7] of WorldGym's [... 10]."""
    motion = actions[..., :6] / WORLDGYM_LIMITS * BRIDGE_LIMITS
    return np.concatenate([motion, np.where(actions[..., 6:7] < 0, 1.0, 0.0)], -1).astype(np.float32)


def vector_to_matrix(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix [... 3 3] of a rotation vector [... 3] (Rodrigues)."""
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*vector.shape, 3)
    return np.eye(3) + np.sinc(angle / np.pi) * cross + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * cross @ cross


def matrix_to_vector(matrix: np.ndarray) -> np.ndarray:
    """Rotation vector [... 3] of a rotation matrix [... 3 3]; inverse of `vector_to_matrix` below half a turn."""
    twist = np.stack([matrix[..., 2, 1], matrix[..., 0, 2], matrix[..., 1, 0]], -1)
    twist = (twist - np.stack([matrix[..., 1, 2], matrix[..., 2, 0], matrix[..., 0, 1]], -1)) / 2
    sine, cosine = np.linalg.norm(twist, axis=-1), (np.trace(matrix, axis1=-2, axis2=-1) - 1) / 2
    return twist / np.sinc(np.arctan2(sine, cosine) / np.pi)[..., None]


def rpy_to_matrix(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix [... 3 3] of roll, pitch and yaw [... 3]: about x, then y, then z of the base."""
    roll, pitch, yaw = (vector_to_matrix(angles[..., i, None] * np.eye(3)[i]) for i in range(3))
    return yaw @ pitch @ roll


def matrix_to_rpy(matrix: np.ndarray) -> np.ndarray:
    """Inverse of `rpy_to_matrix` for a pitch below a quarter turn."""
    roll = np.arctan2(matrix[..., 2, 1], matrix[..., 2, 2])
    pitch = np.arcsin(np.clip(-matrix[..., 2, 0], -1.0, 1.0))
    return np.stack([roll, pitch, np.arctan2(matrix[..., 1, 0], matrix[..., 0, 0])], -1)

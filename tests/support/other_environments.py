"""Environments as other people write them, each in the words of its library; a cart is to reach the right edge."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch

SPEC = {"axes": ["x", "gripper"], "unit": "px", "rate": 5.0, "gripper": "effort"}


class Cart(gym.Env[Any, Any]):
    """The contract of docs/how-to/environments.md: the first number of an action moves a bright column by 3 pixels."""

    height, width, speed, steps = 16, 24, 3.0, 12
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    action_spec: Any = SPEC
    tasks: Any = ("right", "left")

    def __init__(self, render_mode: str | None = None, ends: bool = False):
        self.render_mode, self.ends = render_mode, ends
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        box = gym.spaces.Box(0, 255, (self.height, self.width, 3), np.uint8)
        self.observation_space = gym.spaces.Dict({"image": box})
        self.at, self.task, self.stepped_after_end, self._over = 0.0, "right", False, False

    def instructions(self, task: str) -> list[str]:
        return [f"drive to the {task}", f"go {task}"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = (options or {}).get("task", "right")
        self.at, self._over = float(self.np_random.uniform(8, 16)), False
        return self.observed(), {}

    def picture(self) -> np.ndarray:
        frame = np.full((self.height, self.width, 3), 20, np.uint8)
        left = int(np.clip(self.at, 0, self.width - 1))
        frame[:, max(0, left - 1) : left + 2] = (250, 200, 60)
        return frame

    def observed(self) -> Any:
        return {"image": self.picture(), "state": np.array([self.at, 0.5], np.float32)}

    @property
    def is_there(self) -> bool:
        return self.at >= self.width - 3 if self.task == "right" else self.at <= 2

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._over:
            self.stepped_after_end = True
            raise AssertionError("stepped after the end")
        self.at = float(np.clip(self.at + self.speed * float(np.reshape(action, -1)[0]), 0, self.width - 1))
        self._over = self.ends and self.is_there
        return self.observed(), float(self.is_there), self._over, False, self.told()

    def told(self) -> dict[str, Any]:
        return {"success": self.is_there, "progress": self.at / self.width}

    def render(self) -> Any:
        return self.picture()

    def expert_action(self) -> np.ndarray:
        return np.array([1.0 if self.task == "right" else -1.0, 0.0], np.float32)


class Bare(Cart):
    """Without a spec, tasks, sentences and an expert."""

    action_spec = tasks = instructions = expert_action = None  # pyright: ignore[reportAssignmentType]


class LerobotCart(Bare):
    """As lerobot's: `pixels`, `agent_pos`, `task_description`, `is_success`; ends at success."""

    task_description = "drive to the right"

    def __init__(self, **kwargs: Any):
        super().__init__(ends=True, **kwargs)

    def observed(self) -> Any:
        front = self.picture()
        return {"pixels": {"front": front, "wrist": front[:, ::-1].copy()}, "agent_pos": np.array([self.at])}

    def told(self) -> dict[str, Any]:
        return {"is_success": self.is_there}


class ManiskillCart(Bare):
    """As ManiSkill's: batched torch tensors, `sensor_data/CAM/rgb`, `get_language_instruction()`."""

    def observed(self) -> Any:
        rgb = torch.from_numpy(self.picture())[None]
        agent = {"qpos": torch.tensor([[self.at, 0.0]]), "qvel": torch.zeros(1, 2)}
        return {"agent": agent, "sensor_data": {"base_camera": {"rgb": rgb}}, "extra": {}}

    def get_language_instruction(self) -> list[str]:
        return ["drive to the right"]

    def step(self, action: Any) -> Any:
        observed, reward, _, _, _ = super().step(action)
        done = torch.tensor([False])
        return observed, torch.tensor([reward]), done, done, {"success": torch.tensor([self.is_there])}


class StableCart(Bare):
    """As stable-worldmodel's: pictures in `info`, success is the end."""

    def __init__(self, **kwargs: Any):
        super().__init__(ends=True, **kwargs)

    def reset(self, **kwargs: Any) -> Any:
        super().reset(**kwargs)
        return np.array([self.at]), {"pixels": self.picture()}

    def observed(self) -> Any:
        return np.array([self.at])

    def told(self) -> dict[str, Any]:
        return {"pixels": self.picture()}


class RlinfCart(Bare):
    """As RLinf's: batches of one, `main_images`, `wrist_images`, `states`, `task_descriptions`, reset by state ids."""

    num_envs = 1

    def reset(self, *, reset_state_ids: Any, env_idx: Any = None, options: Any = None, seed: Any = None) -> Any:
        assert reset_state_ids.shape == (1,)
        return super().reset(seed=int(reset_state_ids[0]))

    def observed(self) -> Any:
        pictures = torch.from_numpy(self.picture())[None]
        states = torch.tensor([[self.at]])
        words = ["drive to the right"]
        return {"main_images": pictures, "wrist_images": pictures, "states": states, "task_descriptions": words}

    def told(self) -> dict[str, Any]:
        return {"success_once": torch.tensor([self.is_there]), "episode": {"success_once": torch.tensor([True])}}


@dataclass
class Semantics:
    control_mode: str = "eef_delta_pos"
    dim_labels: tuple[str, ...] = ("x", "gripper")


@dataclass
class Embodiment:
    """As inspect-robots': the scene has the layout and the sentence, the result has a reason."""

    cart: Cart = field(default_factory=lambda: Cart(ends=True))

    def __post_init__(self) -> None:
        low, high = np.array([-1.0, -1.0]), np.array([1.0, 1.0])
        space = SimpleNamespace(shape=(2,), low=low, high=high, semantics=Semantics())
        self.info = SimpleNamespace(name="cart", action_space=space, control_hz=5.0)

    def observed(self) -> Any:
        picture = self.cart.picture()
        return SimpleNamespace(
            images={"front": picture}, state={"at": np.array([self.cart.at])}, instruction=self.instruction
        )

    def reset(self, scene: Any, *, seed: int | None = None) -> Any:
        self.instruction = scene.instruction or "drive to the right"
        self.cart.reset(seed=scene.init_seed)
        return self.observed()

    def step(self, action: Any) -> Any:
        _, _, terminated, truncated, _ = self.cart.step(action.data)
        reason = "success" if terminated else None
        return SimpleNamespace(
            observation=self.observed(), reward=None, terminated=terminated, termination_reason=reason,
            truncated=truncated, info={},
        )  # fmt: skip


gym.register("other/Cart-v0", entry_point=Cart, max_episode_steps=12)
gym.register("other/BareCart-v0", entry_point=Bare, max_episode_steps=12)

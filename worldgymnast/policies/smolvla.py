"""SmolVLA (Shukor et al. 2025, arXiv 2506.01844): a 450 M flow-matching policy, trained by imitation and RL."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import checked
from worldgymnast.policies.flow_expert import FlowExpert
from worldgymnast.policies.flow_expert_config import FlowExpertConfig
from worldgymnast.policies.letterbox import Resize
from worldgymnast.policies.prompts import Template
from worldgymnast.policies.smolvla_network import SmolVLANetwork, SmolVLASizes
from worldgymnast.protocols import ComponentInfo


@checked
class SmolVLAConfig(FlowExpertConfig):
    """Config of a `SmolVLA`; see `FlowExpertConfig`.

    Attributes:
        sizes: sizes of the network.
        resize: padding left and top.
        prompt: the instruction and a line break.
    """

    sizes: SmolVLASizes = field(default_factory=SmolVLASizes)
    resize: Resize = "corner"
    prompt: Template = "smolvla"


class SmolVLA(FlowExpert):
    """SmolVLA `Policy`. Its weights have the names of lerobot's checkpoints."""

    config_type: ClassVar[type] = SmolVLAConfig
    backbone: ClassVar[str] = "model.vlm_with_expert.vlm."

    def __init__(self, config: SmolVLAConfig, action_spec: ActionSpec):
        sizes = config.sizes
        network = SmolVLANetwork(sizes, (config.shortest, config.longest))
        widths = {"width": sizes.expert_width, "action": sizes.action, "state": sizes.state, "image": sizes.image}
        super().__init__(config, action_spec, network, **widths)

    @classmethod
    def from_config(cls, config: SmolVLAConfig, info: ComponentInfo) -> SmolVLA:
        """Build the policy with fresh weights."""
        return cls(config, info.spec)

"""pi0 (Black et al. 2024, arXiv 2410.24164) and pi0.5 (2025, arXiv 2504.16054), trained by imitation and RL."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import Positive, checked
from worldgymnast.policies.flow_expert import FlowExpert
from worldgymnast.policies.flow_expert_config import FlowExpertConfig
from worldgymnast.policies.pi0_network import Pi0Network, Pi0Sizes
from worldgymnast.policies.prompts import Template
from worldgymnast.protocols import ComponentInfo


@checked
class Pi0Config(FlowExpertConfig):
    """Config of a `Pi0`; see `FlowExpertConfig`.

    Attributes:
        sizes: sizes of the network.
    """

    sizes: Pi0Sizes = field(default_factory=Pi0Sizes)


@checked
class Pi05Config(Pi0Config):
    """Config of a `Pi05`; see `FlowExpertConfig`.

    Attributes:
        prompt: instruction and state ("pi05"), or the instruction alone ("pi0").
        prompt_length: tokens of a padded prompt.
    """

    prompt: Template = "pi05"
    prompt_length: Positive = 200


class Pi0(FlowExpert):
    """pi0 `Policy`. Its weights have the names of openpi's and lerobot's checkpoints."""

    config_type: ClassVar[type] = Pi0Config
    backbone: ClassVar[str] = "model.paligemma_with_expert.paligemma."
    is_adaptive: ClassVar[bool] = False

    def __init__(self, config: Pi0Config, action_spec: ActionSpec):
        sizes = config.sizes
        network = Pi0Network(sizes, is_adaptive=self.is_adaptive, periods=(config.shortest, config.longest))
        widths = {"width": sizes.expert_width, "action": sizes.action, "state": sizes.state, "image": sizes.image}
        super().__init__(config, action_spec, network, **widths)

    @classmethod
    def from_config(cls, config: Pi0Config, info: ComponentInfo) -> Pi0:
        """Build the policy with fresh weights."""
        return cls(config, info.spec)


class Pi05(Pi0):
    """pi0.5 `Policy`: the time conditions the norms of the expert, and the state is part of the prompt."""

    config_type: ClassVar[type] = Pi05Config
    is_adaptive: ClassVar[bool] = True

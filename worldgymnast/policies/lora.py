"""LoRA adapters: low-rank updates of linear layers, and their files in PEFT's layout.

An adapted layer computes W x + alpha / rank B A x (Hu et al. 2021, arXiv 2106.09685). A begins random and B at zero, so
a fresh adapter changes nothing. The names and shapes of the base weights stay, and `lora_A.weight` and `lora_B.weight`
join them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from worldgymnast.errors import InputError
from worldgymnast.files import read_json_object, short
from worldgymnast.weights import load_weights, save_weights, some_of, to_json, write_text

_A, _B = "lora_A.weight", "lora_B.weight"
_ROOT = "base_model.model."
"""Prefix of names in PEFT's files."""


class AdaptedLinear(nn.Linear):
    """Linear layer with frozen weights and an adapter in float32.

    Args:
        layer: the layer, whose parameters are shared and frozen.
        rank: rank of the update.
        alpha: scale of the update, times the rank.
        generator: draws A, on the CPU.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, generator: torch.Generator):
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.requires_grad_(False)
        where: Any = {"device": layer.weight.device, "dtype": torch.float32, "bias": False}
        self.scale = alpha / rank
        self.lora_A = nn.Linear(layer.in_features, rank, **where)
        self.lora_B = nn.Linear(rank, layer.out_features, **where)
        initial = torch.rand(rank, layer.in_features, generator=generator, device="cpu") * 2 - 1
        with torch.no_grad():
            self.lora_A.weight.copy_(initial / layer.in_features**0.5)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, input: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        """Output of the layer plus that of the adapter."""
        output = F.linear(input, self.weight, self.bias)
        update = self.lora_B(self.lora_A(input.to(self.lora_A.weight.dtype)))
        return output + self.scale * update.to(output.dtype)


def add_adapters(module: nn.Module, names: Sequence[str], rank: int, alpha: float) -> None:
    """Freeze the module and adapt its layers of these names; the same adapters every time.

    Raises:
        InputError: a name is not that of a linear layer.
    """
    layers = {name: layer for name, layer in module.named_modules() if type(layer) is nn.Linear}
    if wrong := [name for name in names if name not in layers]:
        raise InputError(f"LoRA: found no linear layer {some_of(wrong)} in {type(module).__name__}. Correct the names")
    module.requires_grad_(False)
    generator = torch.Generator("cpu").manual_seed(0)
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, AdaptedLinear(layers[name], rank, alpha, generator))


def is_adapter(name: str) -> bool:
    """Whether a weight is that of an adapter, by its name."""
    return name.endswith((_A, _B))


def updates(module: nn.Module) -> dict[str, Tensor]:
    """Update of each adapted weight, alpha / rank B A, in float32, by the name of the weight."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, AdaptedLinear)}
    return {
        f"{name}.weight": (layer.scale * (layer.lora_B.weight @ layer.lora_A.weight)).detach().cpu()
        for name, layer in layers.items()
    }


def save_adapter(module: nn.Module, folder: Path, base: str, whole: Sequence[str] = ()) -> None:
    """Write the adapters, and modules that are trained as a whole, in PEFT's layout.

    Args:
        module: the module with adapters.
        folder: gets adapter_config.json and adapter_model.safetensors.
        base: name or folder of the model that they belong to.
        whole: names of submodules whose weights replace those of the base (PEFT's "modules_to_save").

    Raises:
        InputError: the module has no adapters.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, AdaptedLinear)}
    if not layers:
        raise InputError(f"{type(module).__name__} has no LoRA adapters to save. Add them, or save all its weights")
    first = next(iter(layers.values()))
    rank = first.lora_A.out_features
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": first.scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
        "fan_in_fan_out": False,
        "target_modules": sorted(layers),
        "modules_to_save": sorted(whole) or None,
    }
    parts = {f"{_ROOT}{name}.{_A}": layer.lora_A.weight for name, layer in layers.items()}
    parts |= {f"{_ROOT}{name}.{_B}": layer.lora_B.weight for name, layer in layers.items()}
    for name in whole:
        values = module.get_submodule(name).state_dict()
        parts |= {f"{_ROOT}{name}.{part}": value for part, value in values.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / "adapter_model.safetensors", parts, {"format": "pt"})
    write_text(folder / "adapter_config.json", to_json(settings))


def merge_adapter(tensors: dict[str, Tensor], folder: Path, rename: Callable[[str], str] | None = None) -> None:
    """Add an adapter in PEFT's layout to weights, in place and in float32.

    Modules that were saved as a whole replace those of the weights.

    Args:
        tensors: the weights.
        folder: the adapter.
        rename: name in `tensors` of a weight that the adapter names; None for the same.

    Raises:
        InputError: the adapter is of another kind, incomplete, or names weights that the model lacks.
    """
    path = folder / "adapter_config.json"
    settings = read_json_object(path)
    scale, whole = _scale(settings, path), tuple(map(str, settings.get("modules_to_save") or ()))
    file = folder / "adapter_model.safetensors"
    parts, _ = load_weights(file, is_published=True)
    if not parts:
        raise InputError(f"{file}: found no tensors, expected those of a LoRA adapter. Copy it again")

    def base_name(name: str) -> str:
        name = name.removeprefix(_ROOT)
        return name if rename is None else rename(name)

    for name in [name for name in parts if not name.endswith((_A, _B))]:
        owner, target = name.removeprefix(_ROOT).rpartition(".")[0], base_name(name)
        if not owner.endswith(whole) or not whole:
            raise InputError(f"{file}: found tensor '{name}', expected names that end with {_A} or {_B}")
        if target not in tensors or tensors[target].shape != parts[name].shape:
            raise InputError(
                f"{file}: '{name}' is missing in the base, or has another shape. Use the adapter's own base"
            )
        tensors[target] = parts.pop(name)
    for name in sorted({name.rsplit(".", 2)[0] for name in parts}):
        target = base_name(f"{name}.weight")
        try:
            down, up, weight = parts[f"{name}.{_A}"], parts[f"{name}.{_B}"], tensors[target]
        except KeyError as error:
            raise InputError(f"{file}: '{name}' needs {error}, which is missing. Use the adapter's own base") from error
        if (len(up), down.shape[1]) != tuple(weight.shape) or len(down) != up.shape[1]:
            shapes = f"{list(up.shape)} and {list(down.shape)}"
            raise InputError(f"{file}: '{name}' has shapes {shapes}, which do not give {list(weight.shape)}")
        tensors[target] = weight.float() + scale * (up.float() @ down.float())


def _scale(settings: Mapping[str, Any], path: Path) -> float:
    """Scale of an adapter's updates, from its config."""
    for name, value in {"peft_type": "LORA", "use_dora": False, "bias": "none", "fan_in_fan_out": False}.items():
        if (found := settings.get(name, value)) != value:
            raise InputError(f"{path}: field '{name}': found {short(found)}, expected {short(value)}")
    for name in ("rank_pattern", "alpha_pattern"):
        if settings.get(name):
            raise InputError(f"{path}: field '{name}': found {short(settings[name])}, expected none")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise InputError(f"{path}: fields 'r', 'lora_alpha': found {short([rank, alpha])}, expected two numbers")
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)

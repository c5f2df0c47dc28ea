"""Real environments: their configs, references to them, and environments built from either.

`environment_config` reads a reference such as `metaworld`, `libero:object` or `gym:ID`; `environment` builds what a
reference or a config describes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Annotated, Any, get_args

from worldgymnast.configs import ByKind, from_dict, to_dict
from worldgymnast.envs.anygym import Gymnasium
from worldgymnast.envs.description import GymnasiumConfig
from worldgymnast.envs.libero import LiberoConfig
from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.envs.references import resolve_reference
from worldgymnast.errors import InputError
from worldgymnast.files import read_json_object
from worldgymnast.protocols import RealEnvironment
from worldgymnast.registry import class_of, kinds, make

_BUILT_IN = ("MetaWorld", "Libero", "Gymnasium")
"""Kinds whose configs are in `EnvironmentConfig`."""


class _Environments(ByKind):
    """The configs of built-in environments, and of those that packages register."""

    def more(self) -> dict[str, type[Any]]:
        """See `ByKind.more`."""
        classes = [_environment_class(kind) for kind in kinds("environments") if kind not in _BUILT_IN]
        return {one.config_type.__name__: one.config_type for one in classes if hasattr(one, "config_type")}


EnvironmentConfig = Annotated[MetaWorldConfig | LiberoConfig | GymnasiumConfig, _Environments(is_first_plain=True)]
"""Configs of real environments for recipes; JSON without "kind" is Meta-World's."""
ENVIRONMENT_CONFIGS: tuple[type[Any], ...] = get_args(get_args(EnvironmentConfig)[0])
"""The built-in ones."""
DEFAULT_ENVIRONMENT = MetaWorldConfig()
"""Environment of the starter components."""


def environment(reference: EnvironmentConfig | str | Path) -> RealEnvironment:
    """Build a real environment from its config or a reference; see `environment_config`."""
    config = environment_config(reference) if isinstance(reference, str | Path) else reference
    return make("environments", config)


def unopened_environment(config: EnvironmentConfig) -> Any:
    """Real environment of a config, without a look at it; `testing.inspect_environment` names all its problems."""
    return Gymnasium.unopened(config) if isinstance(config, GymnasiumConfig) else environment(config)


def made_environment(make: Callable[[], Any], fields: Mapping[str, Any]) -> Any:
    """Real environment over what a class or function makes."""
    return Gymnasium(from_dict(GymnasiumConfig, fields, f"environment '{make.__name__}'"), make)


def environment_config(reference: str | Path, **fields: Any) -> Any:
    """Config of a real environment.

    Args:
        reference: `metaworld` or the name of another kind, `gym:ID`, `module:factory`, `lerobot:TYPE`, `maniskill:ID`
            or another of `envs.references.PREFIXES`, `KIND:ARGUMENT` of a registered kind whose config has a class
            method `from_argument`, or FILE.json, a description with "kind".
        **fields: fields of that kind, which override those of the reference.

    Raises:
        InputError: the reference is unknown, or a field is invalid.

    >>> environment_config("metaworld", size=128).size
    128
    >>> environment_config("gym:CartPole-v1").id
    'CartPole-v1'
    """
    if str(reference).endswith(".json"):
        path = Path(reference)
        data = read_json_object(path, "expected the description of an environment. Check the path")
        return _from_kind(str(data.get("kind", "Gymnasium")), {**data, **fields}, str(path))
    return _from_reference(str(reference), fields)


def _from_reference(reference: str, fields: Mapping[str, Any]) -> Any:
    word, _, argument = reference.partition(":")
    where = f"environment '{reference}'"
    kind = next((one for one in kinds("environments") if _plain(one) == _plain(word)), None)
    if kind is not None and kind != "Gymnasium":
        config_type = _environment_class(kind).config_type
        if not argument:
            return from_dict(config_type, fields, where)
        if not hasattr(config_type, "from_argument"):
            raise InputError(f"{where}: {kind} takes no argument. Use {word}, and set its fields")
        return from_dict(config_type, to_dict(config_type.from_argument(argument)) | dict(fields), where)
    given = resolve_reference(reference, [*map(_plain, kinds("environments"))])
    return from_dict(GymnasiumConfig, given | dict(fields), where)


def _from_kind(name: str, data: Mapping[str, Any], where: str) -> Any:
    """Config of a description."""
    kind = next((one for one in kinds("environments") if _plain(name) in (_plain(one), _plain(one) + "config")), None)
    if kind is None:
        raise InputError(f"{where}: field 'kind': found '{name}', expected {' or '.join(kinds('environments'))}")
    rest = {key: value for key, value in data.items() if key != "kind"}
    return from_dict(_environment_class(kind).config_type, rest, where)


def _environment_class(kind: str) -> type[Any]:
    found = class_of("environments", kind)
    assert found is not None
    return found


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


@dataclass(frozen=True)
class OptionalMembers:
    """What a real environment may have beyond the Protocol `RealEnvironment`, and what holds without it.

    Larger parts have Protocols of their own: `Demonstrates`, `KeepsLayouts` and `HasTiling` in `protocols`.

    Attributes:
        state_names: one name for each number of the state; empty for a state without names, or for none.
        has_expert: whether the single environment of `Demonstrates.open` has an expert; if not, it can only play.
        noise_scale: share of the noise of recordings, one number, or one per axis.
        check: raises InputError if the environment cannot run here; called before anything is computed.

    >>> OptionalMembers.of(environment(DEFAULT_ENVIRONMENT)).has_expert, OptionalMembers.of(object()).noise_scale
    (True, 1.0)
    """

    state_names: tuple[str, ...] = ()
    has_expert: bool = True
    noise_scale: float | Sequence[float] = 1.0
    check: Callable[[], None] | None = None

    @classmethod
    def of(cls, env: object) -> OptionalMembers:
        """Those of an environment."""
        known: dict[str, Any] = {one.name: getattr(env, one.name) for one in fields_of(cls) if hasattr(env, one.name)}
        known["state_names"] = tuple(known.get("state_names", ()))
        return cls(**known)


def resized(config: Any, size: tuple[int, int]) -> Any:
    """Config of an environment with frames of that height and width, where it can resize; else unchanged.

    >>> resized(MetaWorldConfig(), (128, 128)).size, resized(MetaWorldConfig(), (64, 96)).size
    (128, 64)
    """
    if hasattr(config, "resized"):
        return config.resized(size)
    return replace(config, size=size[0]) if _has_field(config, "size") and size[0] == size[1] else config


def with_horizon(config: Any, horizon: int) -> Any:
    """Config of an environment with episodes of `horizon` actions."""
    return replace(config, horizon=horizon) if _has_field(config, "horizon") else config


def _has_field(config: Any, name: str) -> bool:
    return is_dataclass(config) and any(field.name == name for field in fields_of(config))


def task_names(config: Any) -> tuple[str, ...]:
    """Tasks of a real environment's config; the environment is opened if it alone knows them.

    >>> task_names(MetaWorldConfig(tasks=("door-close",)))
    ('door-close',)
    """
    return tuple(config.tasks) or tuple(environment(config).tasks)


def environment_dict(config: Any) -> dict[str, Any]:
    """Config of any real environment as JSON, which tells its kind; see `EnvironmentConfig`."""
    is_plain = type(config) is type(DEFAULT_ENVIRONMENT)
    return to_dict(config) | ({} if is_plain else {"kind": type(config).__name__})

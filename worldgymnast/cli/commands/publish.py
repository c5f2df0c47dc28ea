"""The commands import-policy, export-policy and push: published policies in and back out, components to the hub."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from worldgymnast.actions import BRIDGE, ActionSpec, ActionSpecMismatch, libero_spec
from worldgymnast.cli.checks import require_new_path
from worldgymnast.cli.command import Command, file_suffix, print_written
from worldgymnast.cli.starters import spec_in
from worldgymnast.configs import checked
from worldgymnast.episodes.formats import has_episodes, read
from worldgymnast.episodes.statistics import action_statistics
from worldgymnast.errors import FieldError, InputError
from worldgymnast.files import read_json_object
from worldgymnast.publishing import model_card, push_to_hub
from worldgymnast.registry import describe_policy, export_policy, load_policy
from worldgymnast.weights import to_json, write_text

_SPECS: Mapping[str, ActionSpec] = {"libero": libero_spec(1), "bridge": BRIDGE}
_FLAGS = {
    "action_spec": "--action-spec libero|bridge|FILE|DATA",
    "tokenizer": "--tokenizer NAME",
    "cameras": "--cameras NAME...",
    "statistics": "--statistics DATA|FILE",
    "key": "--key NAME",
    "trained_by": "--trained-by NAME",
}
"""Flag of each field that has one; the others are set by --set FIELD=VALUE."""
_PATHS = ("tokenizer", "statistics")
_THUMBNAIL = 16
"""Size in pixels of frames that are read for their actions and states alone."""


@checked(kw_only=True)
class ImportPolicy(Command):
    """Describe a published policy: OpenVLA, SmolVLA, pi0 or pi0.5.

    Writes policy.json, which every command takes as a policy. It holds what the files of the checkpoint say, and what
    the flags say where the files are silent. The weights stay where they are.

    Attributes:
        checkpoint: folder, or name on the hub.
        out: description to write (.json).
        action_spec: meaning of the action numbers: "libero" or "bridge", a JSON file, or a data set or component file
            with the same actions.
        tokenizer: folder with the language model's tokenizer.json, or its name on the hub; OpenVLA: tokenizer.json.
        cameras: your cameras, in the order of the checkpoint.
        statistics: for a checkpoint without statistics, such as a base model: your data set, which is measured, or
            openpi's norm_stats.json. A data set also gives the action spec, if no flag does.
        key: entry of the statistics, if there are several.
        trained_by: code that trained an OpenVLA: "openvla", "openvla-oft" or "simplevla-rl".
        set: other fields of the description, such as crop=center or lora_rank=32; values are JSON or plain text.
    """

    checkpoint: Positional[str]
    out: Annotated[Path, file_suffix(".json")]
    action_spec: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE|DATA")] = None
    tokenizer: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    cameras: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    statistics: Annotated[str | None, tyro.conf.arg(metavar="DATA|FILE")] = None
    key: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    trained_by: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE...")] = ()

    def __call__(self) -> int:
        """Read the files, write the description.

        Raises:
            InputError: the files leave fields open that no flag gives; all of them are named.
        """
        require_new_path(self.out)
        measured = self.out.with_suffix(".norm_stats.json")
        if self.statistics is None or not Path(self.statistics).is_dir():
            return self._describe(self._given())
        require_new_path(measured)
        try:
            return self._describe(self._given() | self._measure(measured), measured)
        except BaseException:
            measured.unlink(missing_ok=True)
            raise

    def _describe(self, given: dict[str, Any], measured: Path | None = None) -> int:
        """Write the description, if it is complete; MEASURED has the statistics."""
        draft = describe_policy(self.checkpoint, given)
        if draft.open:
            parts = [f"{one.question} ({_FLAGS.get(one.field, f'--set {one.field}=VALUE')})" for one in draft.open]
            raise InputError(
                f"{self.checkpoint}: its files do not say {'; '.join(parts)}. A guess could be wrong unnoticed. Add "
                "these flags"
            )
        fields = draft.fields
        if measured is not None:
            self._check_measured(fields)
            fields = fields | {"statistics": measured.name}
        if self.out.parent.resolve() == Path(fields["checkpoint"]):
            fields = fields | {"checkpoint": "."}
        write_text(self.out, to_json(fields))
        read_fields = ", ".join(f"{name} {fields[name]}" for name in draft.is_read)
        print(f"{self.checkpoint}: read from its files: {read_fields}. Correct {self.out} if needed", file=sys.stderr)
        return print_written(self.out)

    def _measure(self, out: Path) -> dict[str, Any]:
        """Measure the data set of --statistics, write OUT, and return the fields that follow from it."""
        data = Path(str(self.statistics))
        episodes = read(data, image_key="all", size=_THUMBNAIL)
        spec = episodes.spec if self.action_spec is None else _spec(self.action_spec)
        try:
            write_text(out, to_json(action_statistics(episodes, spec)))
        except ActionSpecMismatch as error:
            raise InputError(f"--statistics: {data}: {error}. Give data of the same actions") from error
        print(f"{data}: measured actions of {len(episodes)} episodes: {out}", file=sys.stderr)
        return {"statistics": str(out.resolve()), "action_spec": spec.to_dict()}

    def _check_measured(self, fields: Mapping[str, Any]) -> None:
        """Refuse statistics of absolute actions for a checkpoint that predicts relative ones."""
        if fields.get("relative_axes"):
            raise FieldError(
                "statistics",
                f"{self.checkpoint} predicts actions relative to the state, whose statistics cannot be measured here. "
                "Measure them with the code that trained it, and give its norm_stats.json",
            )

    def _given(self) -> dict[str, Any]:
        """Fields that the flags give."""
        given: dict[str, Any] = {}
        for name in ("tokenizer", "statistics", "key", "trained_by"):
            if (value := getattr(self, name)) is not None:
                is_path = name in _PATHS and Path(value).exists()
                given[name] = str(Path(value).resolve()) if is_path else value
        if self.cameras:
            given["cameras"] = list(self.cameras)
        if self.action_spec is not None:
            given["action_spec"] = _spec(self.action_spec).to_dict()
        for entry in self.set:
            name, equals, text = entry.partition("=")
            if not equals or not name:
                raise FieldError("set", f"found {entry!r}, expected FIELD=VALUE, such as crop=center")
            given[name] = _value(text)
        return given


def _value(text: str) -> Any:
    """JSON value, or the text itself.

    >>> _value("[1, 2]"), _value("center")
    ([1, 2], 'center')
    """
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text


def _spec(name: str) -> ActionSpec:
    """Action spec by name, from a JSON file, a data set or a component file."""
    path = Path(name)
    if name in _SPECS:
        return _SPECS[name]
    if path.suffix == ".json" and path.is_file():
        try:
            return ActionSpec.from_dict(read_json_object(path))
        except ActionSpecMismatch as error:
            raise InputError(f"--action-spec: {path}: {error}") from error
    if path.suffix == ".safetensors" and (found := spec_in(path)) is not None:
        return found
    if path.is_dir() and has_episodes(path):
        return read(path, image_key="all", size=_THUMBNAIL).spec
    expected = "libero, bridge, a JSON file, a data set or a component file"
    raise FieldError("action_spec", f"found {name!r}, expected {expected}")


@checked(kw_only=True)
class ExportPolicy(Command):
    """Write a finetuned policy in the layout of the checkpoint that it began with.

    SmolVLA, pi0 and pi0.5: as lerobot or openpi wrote the base; OpenVLA: as published. LoRA adapters are merged, or
    written alone in PEFT's layout.

    Attributes:
        policy: policy file.
        base: the checkpoint that it began with: folder, name on the hub, or its policy.json.
        out: folder to write, which must be new.
        adapter_only: write the adapters, and the small modules trained with them, without the base's weights.
    """

    policy: Positional[Path]
    base: str
    out: Path
    adapter_only: bool = False

    def __call__(self) -> int:
        """Load, compare with the base, write."""
        require_new_path(self.out)
        self.prepare()
        policy = load_policy(self.policy)
        for note in export_policy(policy, self.base, self.out, adapter_only=self.adapter_only):
            print(f"{self.policy}: {note}", file=sys.stderr)
        return print_written(self.out)


@checked(kw_only=True)
class Push(Command):
    """Upload a policy, world model or judge with its card to the Hugging Face Hub.

    The card (README.md) is written from the file: what it is, what it was trained on, its numbers, and how to load it.
    `hf:OWNER/NAME` then stands for the file in every command. The token is that of `hf auth login`, or HF_TOKEN.

    Attributes:
        file: component file (.safetensors).
        name: repository, OWNER/NAME; it is created if needed.
        private: create a private repository.
        license: the weights' license, as the hub names it, such as apache-2.0.
        dry_run: print the card and upload nothing.
    """

    file: Annotated[Positional[Path], file_suffix(".safetensors")]
    name: Positional[str]
    private: bool = False
    license: str = ""
    dry_run: bool = False

    def __call__(self) -> int:
        """Upload, print the address."""
        self.prepare()
        if self.dry_run:
            print(model_card(self.file, self.name, self.license), end="")
        else:
            print(push_to_hub(self.file, self.name, private=self.private, license=self.license))
        return 0

"""Component files on the Hugging Face Hub, and readable causes of failures there.

A repository holds one component: `policy.safetensors`, `world.safetensors` or `judge.safetensors`, and its card
(README.md). `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION` stands for that file wherever a component file is expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from worldgymnast.errors import InputError

PREFIX = "hf:"
"""Start of a reference to a component on the hub."""
FILES = ("policy.safetensors", "world.safetensors", "judge.safetensors")
"""Names of component files in a repository."""
_MAX_LENGTH = 200
_MODEL = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_REFERENCE = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")


def is_hub_name(name: str) -> bool:
    """Whether the hub could have a name; paths of folders that do not exist are mostly no such names.

    >>> [is_hub_name(name) for name in ("lerobot/pi0", "gpt2", "/no/such", "./mine", "runs/a/b")]
    [True, True, False, False, False]
    """
    return _MODEL.fullmatch(name) is not None


def check_source(name: str, expected: str, path: Path | None = None) -> None:
    """Require a folder, or a name that the hub could have.

    Args:
        name: as given.
        expected: what it should be, for the message.
        path: where it lies if it is a folder; `name` itself if None.

    Raises:
        InputError: it is a file, or neither a folder nor a possible name.
    """
    path = Path(name) if path is None else path
    try:
        if path.is_dir():
            return
        is_file = path.exists()
    except OSError:  # the name is too long
        is_file = False
    if is_file:
        raise InputError(
            f"{path}: found a file, expected the folder of {expected}, or its name on the hub. Give the folder"
        )
    if not is_hub_name(name):
        raise InputError(
            f"{path}: found no such folder, expected that of {expected}, or its name on the hub (OWNER/NAME). Check "
            "the path"
        )


def is_reference(path: str | Path) -> bool:
    """Whether a path is a reference to the hub.

    >>> is_reference(Path("hf:me/drawer-policy")), is_reference("runs/rl/policy.safetensors")
    (True, False)
    """
    return str(path).startswith(PREFIX)


def fetch(path: Path) -> Path:
    """Download the component of a reference, unless it is in the local cache; other paths are returned as they are.

    Raises:
        InputError: the reference has no owner, or the hub has no such component or cannot be reached.

    >>> fetch(Path("policy.safetensors"))
    PosixPath('policy.safetensors')
    """
    if not is_reference(path):
        return path
    name, revision = _parse(str(path).removeprefix(PREFIX))
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    missing: Exception = FileNotFoundError(name)
    for file in FILES:
        try:
            return Path(hf_hub_download(name, file, revision=revision))
        except EntryNotFoundError as error:
            if not isinstance(missing, LocalEntryNotFoundError):
                missing = error
        except Exception as error:  # of the library, the network or the disk
            raise InputError(f"{path}: cannot be downloaded ({hub_reason(error, name)})") from error
    if isinstance(missing, LocalEntryNotFoundError):
        raise InputError(f"{path}: cannot be downloaded ({hub_reason(missing, name)})") from missing
    raise InputError(
        f"{path}: the repository has none of {', '.join(FILES)}, so it is no component of worldgymnast. Give another "
        "name; a published checkpoint is described by `worldgymnast import-policy`"
    ) from missing


def upload(name: str, files: Mapping[str, Path | bytes], message: str, *, private: bool = False) -> str:
    """Write files to a model repository in one commit, and create it if needed; returns its address.

    Args:
        name: OWNER/NAME.
        files: content or local path, by name in the repository.
        message: first line of the commit.
        private: create it as a private one; an existing repository keeps its visibility.

    Raises:
        InputError: the name has no owner, there is no valid token, or the hub refuses or cannot be reached.
    """
    name, revision = _parse(name)
    if revision is not None:
        raise InputError(f"{name}@{revision}: found a revision, expected OWNER/NAME. Nothing was uploaded. Remove it")
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise InputError(f"{name}: found no token, so nothing was uploaded. Run `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    operations = [CommitOperationAdd(place, content) for place, content in files.items()]
    try:
        address = api.create_repo(name, repo_type="model", private=private or None, exist_ok=True)
        api.create_commit(name, operations, commit_message=message)
    except Exception as error:  # of the library, the network or the disk
        raise InputError(f"{name}: was not uploaded ({_refusal(error, name)})") from error
    return str(address)


def _parse(name: str) -> tuple[str, str | None]:
    """Split OWNER/NAME@REVISION.

    >>> _parse("me/drawer-policy@v1")
    ('me/drawer-policy', 'v1')
    """
    if (match := _REFERENCE.fullmatch(name)) is None or ".." in name or "--" in match["name"]:
        raise InputError(f"{name or 'no name'}: expected OWNER/NAME on the hub, such as me/drawer-policy. Give both")
    return match["name"], match["revision"]


def _refusal(error: BaseException, name: str) -> str:
    """Cause of a failed upload, with a fix."""
    statuses = {getattr(getattr(cause, "response", None), "status_code", None) for cause in _chain(error)}
    if 401 in statuses:
        return "the hub does not accept the token: run `hf auth login`, or set HF_TOKEN to a valid one"
    if 403 in statuses:
        return f"the token may not write to {name.partition('/')[0]}: use a write token of an account that may"
    if any(type(cause).__name__ == "OfflineModeIsEnabled" for cause in _chain(error)):
        return "HF_HUB_OFFLINE is set: unset it"
    return hub_reason(error, name).replace("give a local folder, or check", "check")


def hub_reason(error: BaseException, name: str) -> str:
    """The root cause of a failed download, with a fix.

    These libraries wrap a missing license or a network error in "does not appear to have a file named ...".

    Args:
        error: the exception raised by the library.
        name: requested folder or hub name.

    Returns:
        One line, without a full stop.
    """
    chain = list(_chain(error))
    kinds = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    if "GatedRepoError" in kinds:
        return f"its license is not accepted: accept it at https://huggingface.co/{name} and set HF_TOKEN"
    if "RepositoryNotFoundError" in kinds:
        return "the hub has no such model, or it is private: check the name, and set HF_TOKEN if it is yours"
    if "RevisionNotFoundError" in kinds:
        return "the hub's model has no such revision: check the name after @"
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set and the model is not in the local cache: give a folder, or unset it"
    if "HFValidationError" in kinds:
        return "it is no name on the hub, which has the form OWNER/NAME"
    if kinds & {"NetworkError", "ConnectionError", "gaierror", "TimeoutException"}:
        return f"the hub cannot be reached ({first_line(chain[-1])}): give a local folder, or check the network"
    return first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, at most 200 characters.

    >>> first_line(ValueError("no such file\\nTraceback ..."))
    'no such file'
    """
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= _MAX_LENGTH else f"{line[: _MAX_LENGTH - 3]}..."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__

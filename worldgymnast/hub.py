"""Readable causes of failed downloads from the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from worldgymnast.errors import InputError

_MAX_LENGTH = 200
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


def is_hub_name(name: str) -> bool:
    """Whether the hub could have a name; paths of folders that do not exist are mostly no such names.

    >>> [is_hub_name(name) for name in ("lerobot/pi0", "gpt2", "/no/such", "./mine", "runs/a/b")]
    [True, True, False, False, False]
    """
    return _NAME.fullmatch(name) is not None


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

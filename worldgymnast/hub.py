"""Readable causes of failed downloads from the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator

_MAX_LENGTH = 200


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

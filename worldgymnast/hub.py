"""Why a model of a hub could not be loaded, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator

_LONGEST = 200


def hub_reason(error: BaseException, name: str) -> str:
    """The cause that a user can act on, out of an exception of transformers, diffusers or huggingface_hub.

    These libraries wrap a refused licence or a network error in "does not appear to have a file named ...".

    Args:
        error: what the library raised.
        name: folder or hub name that was asked for.

    Returns:
        One line, without a full stop.
    """
    chain = list(_chain(error))
    kinds = {kind.__name__ for one in chain for kind in type(one).__mro__}
    if "GatedRepoError" in kinds:
        return f"its licence is not accepted: accept it at https://huggingface.co/{name} and set HF_TOKEN"
    if "RepositoryNotFoundError" in kinds:
        return "the hub has no such model, or it is private: check the name, and set HF_TOKEN if it is yours"
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set and the model is not in the local cache: give a folder, or unset it"
    if kinds & {"NetworkError", "ConnectionError", "gaierror", "TimeoutException"}:
        return f"the hub cannot be reached ({first_line(chain[-1])}): give a local folder, or check the network"
    return first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, 200 characters at most."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__

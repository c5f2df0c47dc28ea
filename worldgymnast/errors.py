"""Errors that a user can fix, with one-line messages."""

from __future__ import annotations

from worldgymnast.streams import escape_unprintable


class InputError(ValueError):
    """Invalid user input. The message is one line: what happened, the consequence, the fix.

    The command line prints it without a traceback and exits with code 2. Control characters in quoted text are escaped.
    """

    def __str__(self) -> str:
        return escape_unprintable(super().__str__())


class ProcessLost(InputError):
    """Another process of a training in several processes ended."""


class FieldError(InputError):
    """Invalid value of a config field.

    Args:
        field: path of the field, such as "fit.steps"; several are separated by ", ".
        problem: the value found and the values expected.
        kind: class of the config, or "".

    >>> str(FieldError("fit.steps", "found 0, expected 1 or more", "PolicyTraining"))
    "field 'fit.steps' of PolicyTraining: found 0, expected 1 or more"
    """

    def __init__(self, field: str, problem: str, kind: str = "") -> None:
        super().__init__(field, problem, kind)
        self.fields = tuple(field.split(", "))
        self.problem = problem
        self.kind = kind

    def within(self, path: str, kind: str = "") -> FieldError:
        """Error of the outer config that contains this one at `path`."""
        inner = (".".join(filter(None, (path, name))) for name in self.fields)
        return FieldError(", ".join(inner), self.problem, kind or self.kind)

    def __str__(self) -> str:
        names = ", ".join(f"'{name}'" for name in self.fields)
        noun = "field" if len(self.fields) == 1 else "fields"
        of_kind = f" of {self.kind}" if self.kind else ""
        return escape_unprintable(f"{noun} {names}{of_kind}: {self.problem}")


class Paused(InputError):
    """A run had to stop.

    Its state is saved, and the same command resumes it.
    """

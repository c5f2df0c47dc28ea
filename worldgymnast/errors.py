"""What a user can mend, said in one line."""

from __future__ import annotations

from worldgymnast.streams import visibly


class InputError(ValueError):
    """The user's input is wrong. The message is one line: where, which field, found, expected, what to do.

    The command line prints it without a traceback and exits with code 2. What is quoted in it from a file or a server
    is shown with control characters escaped.
    """

    def __str__(self) -> str:
        return visibly(super().__str__())


class FieldError(InputError):
    """A config's field has a value that it cannot take.

    Args:
        field: its path in the config, such as "fit.steps"; several are separated by ", ".
        problem: what was found and what is expected.
        kind: the config's class, where the path alone does not tell.

    >>> str(FieldError("fit.steps", "found 0, expected 1 or more", "PolicyTraining"))
    "field 'fit.steps' of PolicyTraining: found 0, expected 1 or more"
    """

    def __init__(self, field: str, problem: str, kind: str = "") -> None:
        super().__init__(field, problem, kind)
        self.fields = tuple(field.split(", "))
        self.problem = problem
        self.kind = kind

    def within(self, path: str, kind: str = "") -> FieldError:
        """The same of the config that has this one at `path`."""
        inner = (".".join(filter(None, (path, name))) for name in self.fields)
        return FieldError(", ".join(inner), self.problem, kind or self.kind)

    def __str__(self) -> str:
        names = ", ".join(f"'{name}'" for name in self.fields)
        of = f" of {self.kind}" if self.kind else ""
        return visibly(f"field{'s' * (len(self.fields) > 1)} {names}{of}: {self.problem}")


class Paused(InputError):
    """A run cannot go on now, and can later: what it has is kept, and the same command goes on from there."""

"""The commands that write a judge's description, a small .json file that every --judge takes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from worldgymnast import keys
from worldgymnast.cli.command import LENT, Command, ending, new, writable, wrote
from worldgymnast.configs import Fraction, checked
from worldgymnast.endpoint import EndpointConfig
from worldgymnast.errors import InputError
from worldgymnast.judges.combined import CascadeConfig, EnsembleConfig
from worldgymnast.judges.foreseen import ForeseenConfig
from worldgymnast.judges.local import LocalVLMConfig
from worldgymnast.judges.probe import abilities, probe
from worldgymnast.judges.prompt import QuestionConfig, rubric
from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.registry import load_judge, save_judge

OPEN = "gpt-4o"
"""The model that fills its place until one is named."""


@checked(kw_only=True)
class Describing(Command):
    """A command that writes a judge's description.

    Attributes:
        out: the file to write, a new one that ends in .json.
    """

    out: Annotated[Path, ending(".json")]

    def _write(self, config: Any) -> int:
        """Writes it, and reads it back as --judge will."""
        new(self.out)
        try:
            save_judge(self.out, config)
            load_judge(self.out)
        except BaseException:
            self.out.unlink(missing_ok=True)
            raise
        return wrote(self.out)

    def _beside(self, path: Path) -> str:
        """The path of another file, seen from this one's folder."""
        return Path(os.path.relpath(path.resolve(), self.out.resolve().parent)).as_posix()


@checked(kw_only=True)
class JudgeVLM(Describing):
    """A vision-language model behind an OpenAI-compatible server as a judge.

    Asks the server a few small questions first: whether it is there, takes pictures and takes as many as a clip has,
    and what it can beyond that. The key is taken from the environment and written nowhere.

    Attributes:
        model: its name at the server.
        config: what is asked.
        unchecked: writes the file without asking the server anything.
    """

    model: Positional[str]
    config: Annotated[VLMConfig, LENT] = VLMConfig(EndpointConfig(OPEN))
    unchecked: bool = False

    hidden = {EndpointConfig: ("model",)}  # noqa: RUF012 - as in `Command`
    instead = "the model is named first"

    def __call__(self) -> int:
        """Asks and writes."""
        config = replace(self.config, endpoint=replace(self.config.endpoint, model=self.model))
        new(self.out)
        writable("--out", self.out)
        wants_criteria(config)
        endpoint = config.endpoint
        grant = f"{endpoint.key_variable}@{keys.address(endpoint.url).host}"
        with keys.granted([grant]):  # both were named on this command line
            if not self.unchecked:
                self._look(VLMJudge(config))
            self._write(config)
        if keys.needs_grant(endpoint.key_variable, endpoint.url):
            print(f"The server gets its key only where a command has {keys.FLAG} {grant}.")
        return 0

    def _look(self, judge: VLMJudge) -> None:
        """Refuses what the server cannot do, and says what it can."""
        probe(judge)
        can, config = abilities(judge), judge.config
        budget = config.endpoint.budget
        counted = budget.tokens is not None or budget.money is not None
        for wanted, able, flag, lacks in (
            (config.structured, can.structured, "--structured", "keep to a JSON form"),
            (config.logprobs, can.logprobs, "--logprobs", "tell log-probabilities"),
            (counted, can.counts, "--endpoint.budget", "count tokens, as one of tokens or money needs"),
        ):
            if wanted and not able:
                raise InputError(f"{flag}: found that the server does not {lacks}; leave it out")
        print(
            f"{config.endpoint.url}: sees {config.frames} frames; {_said(can.several)} several votes in a request; "
            f"{_said(can.structured)} --structured; {_said(can.logprobs)} --logprobs; {_said(can.counts)} token counts"
        )


def wants_criteria(config: QuestionConfig) -> None:
    """Raises where the rubric asks for a criterion and there is none."""
    if rubric(config.rubric).wants_criterion and not config.criteria:
        raise InputError(
            f"--criteria: found none, expected one a task for rubric {config.rubric}, such as --criteria drawer-open "
            "'the hand is at the handle'; or take --rubric binary-v1"
        )


def _said(can: bool) -> str:
    return "has" if can else "has no"


@checked(kw_only=True)
class JudgeLocal(Describing):
    """A vision-language model in this process as a judge; loads it once to see that it can be.

    Attributes:
        model: its folder, or its name on the hub.
        config: what is asked.
    """

    model: Positional[str]
    config: Annotated[LocalVLMConfig, LENT] = LocalVLMConfig(OPEN)

    hidden = {LocalVLMConfig: ("model",)}  # noqa: RUF012 - as in `Command`
    instead = "the model is named first"

    def __call__(self) -> int:
        """Writes and loads."""
        wants_criteria(self.config)
        folder = Path(self.model)
        name = self._beside(folder) if folder.is_dir() else self.model
        return self._write(replace(self.config, model=name))


@checked(kw_only=True)
class JudgeForeseen(Describing):
    """The world model's own opinion as a judge, where it has a success head: for an ensemble or a cascade.

    Attributes:
        config: what counts as a success.
    """

    config: Annotated[ForeseenConfig, LENT] = ForeseenConfig()

    def __call__(self) -> int:
        """Writes."""
        return self._write(self.config)


@checked(kw_only=True)
class JudgeCascade(Describing):
    """A cheap judge, and another one for what it is unsure of.

    Attributes:
        first: the cheap judge's file.
        then: the other's.
        low: below this belief the first one's verdict stands.
        high: and from this one on.
    """

    first: Positional[Path]
    then: Positional[Path]
    low: Fraction = CascadeConfig.low
    high: Fraction = CascadeConfig.high

    def __call__(self) -> int:
        """Writes."""
        return self._write(CascadeConfig(self._beside(self.first), self._beside(self.then), self.low, self.high))


@checked(kw_only=True)
class JudgeEnsemble(Describing):
    """Several judges that decide together.

    Attributes:
        judges: their files.
        rule: whether their mean belief counts, or all have to say success.
        threshold: of the mean.
    """

    judges: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="JUDGE...", help_behavior_hint="(required)")]
    rule: Literal["mean", "all"] = "mean"
    threshold: Fraction = EnsembleConfig.threshold

    def __call__(self) -> int:
        """Writes."""
        files = tuple(self._beside(path) for path in self.judges)
        return self._write(EnsembleConfig(files, self.rule, self.threshold))

"""The commands that write a judge's description for --judge (.json)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from worldgymnast import keys
from worldgymnast.cli.checks import require_new_path, require_writable
from worldgymnast.cli.command import NO_PREFIX, Command, file_suffix, print_written
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

PLACEHOLDER = "gpt-4o"
"""The model in the defaults, replaced by MODEL."""


@checked(kw_only=True)
class JudgeFileCommand(Command):
    """A command that writes a judge's description.

    Attributes:
        out: new .json file to write.
    """

    out: Annotated[Path, file_suffix(".json")]

    def _write(self, config: Any) -> int:
        """Write the description, then load the judge to check the file."""
        require_new_path(self.out)
        try:
            save_judge(self.out, config)
            load_judge(self.out)
        except BaseException:
            self.out.unlink(missing_ok=True)
            raise
        return print_written(self.out)

    def _relative(self, path: Path) -> str:
        """Return the path of another file relative to the folder of `out`."""
        return Path(os.path.relpath(path.resolve(), self.out.resolve().parent)).as_posix()


@checked(kw_only=True)
class JudgeVLM(JudgeFileCommand):
    """Use a vision-language model behind an OpenAI-compatible server as a judge.

    A few small requests first check that the server responds, accepts the images of a clip, and has the features that
    flags ask for. The API key is read from the environment and stored nowhere.

    Attributes:
        model: name of the model at the server.
        config: prompt and endpoint.
        unchecked: write the file without any request to the server.
    """

    model: Positional[str]
    config: Annotated[VLMConfig, NO_PREFIX] = VLMConfig(EndpointConfig(PLACEHOLDER))
    unchecked: bool = False

    hidden = {EndpointConfig: ("model",)}  # noqa: RUF012 - as in `Command`
    hidden_hint = "Give MODEL as the first argument"

    def __call__(self) -> int:
        """Check the server and write the description."""
        config = replace(self.config, endpoint=replace(self.config.endpoint, model=self.model))
        require_new_path(self.out)
        require_writable("--out", self.out)
        require_criteria(config)
        endpoint = config.endpoint
        grant = f"{endpoint.key_variable}@{keys.parse_address(endpoint.url).host}"
        with keys.allow_keys([grant]):  # both were named on this command line
            if not self.unchecked:
                self._check_server(VLMJudge(config))
            self._write(config)
        if keys.needs_permission(endpoint.key_variable, endpoint.url):
            print(f"To send the API key to this server, add {keys.FLAG} {grant} to commands that use the judge.")
        return 0

    def _check_server(self, judge: VLMJudge) -> None:
        """Check the server's features, and print them."""
        probe(judge)
        can, config = abilities(judge), judge.config
        budget = config.endpoint.budget
        is_counted = budget.tokens is not None or budget.money is not None
        for is_required, is_supported, flag, feature in (
            (config.structured, can.structured, "--structured", "structured (JSON) output"),
            (config.logprobs, can.logprobs, "--logprobs", "log-probabilities"),
            (is_counted, can.counts, "--endpoint.budget", "token counts, which a budget of tokens or money needs"),
        ):
            if is_required and not is_supported:
                raise InputError(f"{flag}: the server does not support {feature}. Omit the flag")
        features = {
            "several votes per request": can.several,
            "structured output": can.structured,
            "log-probabilities": can.logprobs,
            "token counts": can.counts,
        }
        support = ", ".join(f"{name} {'yes' if is_there else 'no'}" for name, is_there in features.items())
        print(f"{config.endpoint.url}: {config.frames} frames per clip accepted; {support}")


def require_criteria(config: QuestionConfig) -> None:
    """Require a criterion per task if the rubric needs one."""
    if rubric(config.rubric).wants_criterion and not config.criteria:
        raise InputError(
            f"--criteria: missing, but rubric {config.rubric} needs one per task. Add one, such as --criteria "
            "drawer-open 'the hand is at the handle', or use --rubric binary-v1"
        )


@checked(kw_only=True)
class JudgeLocal(JudgeFileCommand):
    """Use a vision-language model in this process as a judge.

    The model is loaded once to check that it works.

    Attributes:
        model: folder of the model, or its name on the Hugging Face hub.
        config: prompt and generation settings.
    """

    model: Positional[str]
    config: Annotated[LocalVLMConfig, NO_PREFIX] = LocalVLMConfig(PLACEHOLDER)

    hidden = {LocalVLMConfig: ("model",)}  # noqa: RUF012 - as in `Command`
    hidden_hint = "Give MODEL as the first argument"

    def __call__(self) -> int:
        """Write the description and load the model."""
        require_criteria(self.config)
        folder = Path(self.model)
        name = self._relative(folder) if folder.is_dir() else self.model
        return self._write(replace(self.config, model=name))


@checked(kw_only=True)
class JudgeForeseen(JudgeFileCommand):
    """Use the world model's success head as a judge.

    Attributes:
        config: threshold of a success.
    """

    config: Annotated[ForeseenConfig, NO_PREFIX] = ForeseenConfig()

    def __call__(self) -> int:
        """Write the description."""
        return self._write(self.config)


@checked(kw_only=True)
class JudgeCascade(JudgeFileCommand):
    """Ask a cheap judge first, and another one in unsure cases.

    Attributes:
        first: file of the cheap judge.
        then: file of the judge for unsure cases.
        low: the first verdict stands below this probability of success.
        high: the first verdict stands from this probability of success on.
    """

    first: Positional[Path]
    then: Positional[Path]
    low: Fraction = CascadeConfig.low
    high: Fraction = CascadeConfig.high

    def __call__(self) -> int:
        """Write the description."""
        require_new_path(self.out)
        self.prepare()
        first, then = self._relative(self.first), self._relative(self.then)
        return self._write(CascadeConfig(first, then, self.low, self.high))


@checked(kw_only=True)
class JudgeEnsemble(JudgeFileCommand):
    """Combine several judges.

    Attributes:
        judges: judge files.
        rule: "mean" thresholds the mean probability of success; "all" requires every judge to report success.
        threshold: threshold on the mean probability.
    """

    judges: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="JUDGE...", help_behavior_hint="(required)")]
    rule: Literal["mean", "all"] = "mean"
    threshold: Fraction = EnsembleConfig.threshold

    def __call__(self) -> int:
        """Write the description."""
        require_new_path(self.out)
        self.prepare()
        files = tuple(self._relative(path) for path in self.judges)
        return self._write(EnsembleConfig(files, self.rule, self.threshold))

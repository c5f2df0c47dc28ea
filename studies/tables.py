"""Fills and prints the tables of docs/results.md: `python -m studies.tables --which methods`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

from studies import cells
from studies import report_methods as methods
from studies import report_results as results
from studies.cells import TablesConfig
from worldgymnast.cli.command import (
    NO_PREFIX,
    DeviceCommand,
    OptionalPath,
    print_written,
)
from worldgymnast.cli.commands.agree import compare
from worldgymnast.cli.main import main
from worldgymnast.configs import checked
from worldgymnast.envs.metaworld import check_tasks
from worldgymnast.recipes.dyna import DynaConfig
from worldgymnast.report import tables as terminal
from worldgymnast.report.world import page
from worldgymnast.weights import write_bytes, write_text


@checked(kw_only=True)
class Tables(DeviceCommand):
    """Fill the tables of docs/results.md: methods, diverse training, new scenes, Dyna by round, agreement.

    Attributes:
        config: number and size of the cells.
        quick: short trainings, one seed and few layouts; every table, with wide intervals.
        out: folder of the cells; runs/tables or runs/tables-quick by default.
        markdown: also write the tables to this .md file.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {DynaConfig: ("score", "env")}
    instead: ClassVar[str] = "every cell has the same environment: use --env flags"
    config: Annotated[TablesConfig, NO_PREFIX] = TablesConfig()
    quick: bool = False
    out: OptionalPath = None
    markdown: OptionalPath = None

    def __call__(self) -> int:
        """Fill missing cells, then print and write the tables."""
        self.prepare()
        out = self.out or Path("runs/tables-quick" if self.quick else "runs/tables")
        config = self.config.quick() if self.quick else self.config
        config = replace(config, dyna=replace(config.dyna, env=config.env))
        check_tasks((*config.env.tasks, *config.diverse.tasks))
        cells.tables(out, config, self.device)
        evaluations = cells.evaluations(out, config)
        sheets = [
            *methods.sheets(evaluations, config.mismatch),
            *results.diverse(cells.places(out, config)),
            *results.scenes(cells.scenes_file(out, config)),
            *results.dyna(out, evaluations),
        ]
        folder = cells.agreement(out, config)
        if (file := folder / "outcomes.json").exists():
            agreed, scattered = compare(cells.compared_groups(json.loads(file.read_text())), config.agree)
            sheets += agreed
            write_bytes(folder / "agreement.png", scattered)
        if (drawn := methods.picture(evaluations, config.mismatch)) is not None:
            write_bytes(out / "methods.png", drawn)
        for sheet in sheets:
            terminal.show(terminal.sheet(sheet))
        target = self.markdown or out / "tables.md"
        write_text(target, page(sheets, "Every method, measured for real"))
        return print_written(target)


if __name__ == "__main__":
    sys.exit(main(study={"studies.tables": Tables}))

"""Imports point down only, and importing the package is cheap."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

HEAVY = {"mujoco", "metaworld", "transformers", "diffusers", "lerobot", "ray", "openai", "tensorflow", "torchvision"}

COUNT = """
import json, sys, torch
before = set(sys.modules)
import {module}
print(json.dumps({{"all": sorted(sys.modules), "beyond": sorted(set(sys.modules) - before)}}))
"""


def test_import_rules_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("module", "most"), [("worldgymnast", 1), ("worldgymnast.types", 8)])
def test_import_is_light(module: str, most: int) -> None:
    """At most that many modules of the package, and few of others: torch, which is not counted, has over a thousand."""
    command = [sys.executable, "-c", COUNT.format(module=module)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert not HEAVY & {name.partition(".")[0] for name in found["all"]}
    assert len([name for name in found["all"] if name.partition(".")[0] == "worldgymnast"]) <= most
    assert len(found["beyond"]) < 200, f"{module} loads {len(found['beyond'])} modules beyond torch"


def imported_at_once(tree: ast.Module) -> set[str]:
    """Packages that a module imports when it is imported itself, not inside a function."""
    found: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)
    return found


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    files = sorted((ROOT / "worldgymnast").rglob("*.py"))
    assert files
    wrong = {
        str(file.relative_to(ROOT)): sorted(heavy)
        for file in files
        if (heavy := HEAVY & imported_at_once(ast.parse(file.read_text())))
    }
    assert not wrong

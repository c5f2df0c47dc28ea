"""Imports point down only, and importing the package is cheap."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

HEAVY = {"mujoco", "metaworld", "transformers", "diffusers", "lerobot", "ray", "openai", "tensorflow", "torchvision"}

MEASURE = """
import json, sys, time
started = time.perf_counter()
import torch
middle = time.perf_counter()
import {module}
ended = time.perf_counter()
roots = sorted({{name.partition(".")[0] for name in sys.modules}})
print(json.dumps({{"torch": middle - started, "own": ended - middle, "roots": roots}}))
"""


def test_import_rules_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["worldgymnast", "worldgymnast.types"])
def test_import_is_light(module: str) -> None:
    command = [sys.executable, "-c", MEASURE.format(module=module)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert not HEAVY & set(found["roots"])
    limit = max(1.0, found["torch"])  # a busy machine slows both
    assert found["own"] < limit, f"{module}: {found['own']:.2f} s beyond torch ({found['torch']:.2f} s)"


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

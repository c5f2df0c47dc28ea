"""The documentation: every page is reachable, links and anchors exist, and the reference is complete."""

import ast
import dataclasses
import doctest
import functools
import importlib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest
import yaml
from documents import DOCUMENTS
from places import ROOT

import worldgymnast
from website import api, configs, formats
from website.commands import defaults, pages_of
from website.markdown import cell, sentence
from website.pages import expand, listed, pages, with_notebook_pages, written
from worldgymnast.cli.commands import KINDS
from worldgymnast.cli.drafts import flags_of
from worldgymnast.cli.main import main
from worldgymnast.errors import InputError
from worldgymnast.metrics import METRICS

DOCS = ROOT / "docs"
LONGEST = 150
LONGEST_GENERATED = 200
"""Lines of a table of flags."""
_LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]+)(?: \"[^\"]*\")?\)")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
_FLAG = re.compile(r"--[a-z][a-z0-9.-]*[a-z0-9]")
_PROGRAM_FLAGS = {"--help", "--traceback", "--allow-key", "--tracker", "--version"}
_OTHER_PROGRAMS = {"--nproc-per-node", "--host", "--port"}
"""Flags of torchrun, vLLM and others in the text."""


def nav() -> list:
    return expand(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])


def text_of(page: str) -> str:
    return pages()[page] if page in pages() else (DOCS / page).read_text()


def site_pages() -> list[str]:
    return sorted({*written(), *pages()})


def test_every_page_is_in_the_navigation_once() -> None:
    counts = Counter(listed(nav()))
    assert [page for page, count in counts.items() if count > 1] == []
    assert set(counts) == set(site_pages())


def test_a_page_without_a_place_gets_one() -> None:
    some = expand([{"Home": "README.md"}, {"More": "UNLISTED"}])
    assert set(listed(some)) == set(written())
    assert expand([*written(), {"More": "UNLISTED"}]) == written()


@pytest.mark.parametrize("page", written())
def test_a_page_is_short(page: str) -> None:
    lines = (DOCS / page).read_text().count("\n")
    assert lines <= LONGEST, f"{page} has {lines} lines, at most {LONGEST} can be read: split it by subject"


def test_a_generated_page_is_not_endless() -> None:
    assert {page: text.count("\n") for page, text in pages().items() if text.count("\n") > LONGEST_GENERATED} == {}


# ---------------------------------------------------------------- links


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them, and those of mkdocstrings."""
    plain = _CODE.sub(lambda found: "" if found[0].startswith("```") else found[0].strip("`"), text)
    found = set()
    for heading in _HEADING.findall(plain):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).strip().replace(" ", "-")
        number = 1
        while slug in found:
            slug = f"{slug.rstrip('0123456789-')}-{number}"
            number += 1
        found.add(slug)
    return found | set(_DIRECTIVE.findall(text))


Texts = Callable[[str], str | None]
"""Gives the text of a page, "" for any other file, and None where there is none."""


def broken(text: str, page: PurePosixPath, exists: Texts) -> Iterator[str]:
    """The relative links of a page that lead nowhere."""
    for link in _LINK.findall(_CODE.sub("", text)):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = normal(page.parent / path) if path else page
        found = exists(str(target))
        if found is None:
            yield f"{link}: no such file"
        elif anchor and anchor not in anchors(found):
            yield f"{link}: no such heading"


def normal(path: PurePosixPath) -> PurePosixPath:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return PurePosixPath(*parts)


def in_site(path: str) -> str | None:
    if path in pages():
        return pages()[path]
    file = DOCS / path
    if path.startswith("..") or not file.is_file():
        return None
    return file.read_text() if file.suffix == ".md" else ""


def in_repository(path: str) -> str | None:
    file = ROOT / path
    if not file.exists():
        return None
    return file.read_text() if file.suffix == ".md" else ""


@pytest.mark.parametrize("page", written())
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    assert list(broken((DOCS / page).read_text(), PurePosixPath(page), in_site)) == []


def test_links_of_generated_pages_lead_somewhere() -> None:
    found = {page: list(broken(text, PurePosixPath(page), in_site)) for page, text in pages().items()}
    assert {page: links for page, links in found.items() if links} == {}


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "studies/README.md"])
def test_links_of_the_repository_lead_somewhere(name: str) -> None:
    assert list(broken((ROOT / name).read_text(), PurePosixPath(name), in_repository)) == []


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("[x](log.md)", ""),
        ("[x](nothing.md)", "nothing.md: no such file"),
        ("[x](log.md#earlier-days)", ""),
        ("[x](log.md#later-days)", "log.md#later-days: no such heading"),
        ("[x](../README.md)", "../README.md: no such file"),
        ("`[x](nothing.md)`", ""),
        ("[x](reference/metrics.md#rl-time)", ""),
    ],
)
def test_a_broken_link_is_noticed(link: str, problem: str) -> None:
    assert list(broken(link, PurePosixPath("some.md"), in_site)) == ([problem] if problem else [])


def test_links_to_notebooks_lead_to_their_pages() -> None:
    assert with_notebook_pages("[a](x.ipynb)") == "[a](x.md)"
    page = pages()["tutorials/first-hour.md"]
    assert '(first-hour.ipynb "' in with_notebook_pages(page)
    assert page.startswith("# The first hour")
    assert page.count("```python") >= 5


# ---------------------------------------------------------------- flags


@functools.cache
def all_flags() -> frozenset[str]:
    """The flags of all commands, with those of every kind of environment, and of studies and benchmarks."""
    variants = [each for name in KINDS for each in (*defaults(name).values(), KINDS[name])]
    found = {flag for each in variants for flag in flags_of(each)}
    found |= {flag for kind in configs.configs()["environments"] for flag in flags_of(kind, prefix="--env.")}
    for path in [*(ROOT / "studies").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        names = re.findall(r"^    (\w+): |\"--([\w-]+)\"", path.read_text(), re.MULTILINE)
        found |= {f"--{(field or flag).replace('_', '-')}" for field, flag in names}
    found |= {re.sub(r"(--|\.)([^.]+)$", r"\1no-\2", flag) for flag in found}
    return frozenset(found | _PROGRAM_FLAGS | _OTHER_PROGRAMS)


def is_flag(flag: str) -> bool:
    """Whether a flag exists, or is the prefix of some; a study's flag counts by its first part."""
    known = all_flags()
    return flag in known or any(each.startswith(f"{flag}.") for each in known) or flag.partition(".")[0] in known


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if "log" not in (path.parent.name, path.stem)], ids=lambda path: path.name
)
def test_a_flag_in_the_text_exists(path: Path) -> None:
    """Flags in `code` within sentences; commands in blocks are parsed in test_documents."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`(?:worldgymnast [^`]*|--[^`]*)`", text)
    assert [flag for span in spans for flag in _FLAG.findall(span) if not is_flag(flag)] == []


def test_a_flag_that_does_not_exist_is_noticed() -> None:
    assert is_flag("--rl.group-size")
    assert is_flag("--rl.trust")
    assert not is_flag("--rl.group-sise")
    assert not is_flag("--grup-size")


@pytest.mark.parametrize("name", KINDS)
def test_every_flag_of_the_help_is_in_the_reference(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = [*defaults(name)][:1]
    with pytest.raises(SystemExit):
        main([*name.split(), *first, "--help"])
    help_text = capsys.readouterr().out
    own = "".join(pages_of(name).values())
    shown = {flag for line in re.findall(r"^\| `(--[^`]+)`", own, re.MULTILINE) for flag in _FLAG.findall(line)}
    assert sorted(set(_FLAG.findall(help_text)) - set(_FLAG.findall(own)) - _PROGRAM_FLAGS) == []
    assert sorted(flag for flag in shown if flag not in help_text) == []
    assert shown or name == "doctor"


def test_arguments_are_in_the_reference() -> None:
    assert "| `DATA...` | Data set folders. **Required.** |" in pages()["reference/cli/sft.md"]
    assert "| `TARGET` |" in pages()["reference/cli/data-convert.md"]


def test_the_reference_shows_defaults_and_presets() -> None:
    page = pages()["reference/cli/rl.md"]
    assert re.search(r"^\| `--rl.group-size INT` \| .*Default: `8` \|$", page, re.MULTILINE)
    assert re.search(r"^\| `--rl.steps` \| `24` \| `24` \| `24` \| `2` \|$", page, re.MULTILINE)
    assert "`PRESET` comes first: `metaworld`, `quickstart`" in page
    assert "**Required.**" in pages()["reference/cli/sft.md"]


# ---------------------------------------------------------------- Python, configs, metrics, files


def test_every_public_name_is_in_the_reference() -> None:
    shown = [name for _, names in api.PAGES.values() for name in names]
    assert sorted(shown) == sorted(set(worldgymnast.__all__) - {"__version__"})
    for name in shown:
        assert api.summary_of(api.target(name)), f"{name} has no docstring"


def test_every_protocol_is_in_the_reference() -> None:
    page = pages()["reference/api/protocols.md"]
    for name in ("TrainablePolicy", "PredictsSuccess", "StartSampler", "Editor", "RoundTrip"):
        assert f"::: worldgymnast.protocols.{name}\n" in page


def test_every_field_of_a_config_is_explained() -> None:
    assert list(configs.undocumented()) == []


def test_every_config_is_in_the_reference() -> None:
    shown = configs.configs()
    assert set(shown) >= {"rl", "training", "judges", "environments"}
    for page, kinds in shown.items():
        text = pages()[f"reference/config/{page}.md"]
        for kind in kinds:
            assert f"## {kind.__name__}\n" in text
            own = set(inspect.get_annotations(kind))
            missing = [
                each.name for each in dataclasses.fields(kind) if each.name in own - set(re.findall(r"`(\w+)`", text))
            ]
            assert missing == [], kind.__name__


def test_values_and_defaults_of_a_config() -> None:
    page = pages()["reference/config/rl.md"]
    assert "| `group_size` | integer, 2 or more; default `8` | Rollouts per start, K. |" in page
    assert 'default `"belief"`' in page
    assert "[TrainerConfig](#trainerconfig)" in page


def test_every_metric_is_in_the_reference() -> None:
    page = pages()["reference/metrics.md"]
    assert [key for key in METRICS if f"| `{key}` |" not in page] == []


def test_every_entry_of_a_component_file_is_in_the_reference() -> None:
    page = pages()["reference/files.md"]
    assert formats.metadata_keys() >= {"kind", "config", "manifest", "action_spec", "fps", "sha256"}
    assert [key for key in formats.metadata_keys() if f"| `{key}` |" not in page] == []


def test_every_file_of_results_is_in_the_reference() -> None:
    folders = ("recipes", "measure", "cli/commands", "report")
    sources = [path.read_text() for folder in folders for path in (ROOT / "worldgymnast" / folder).glob("*.py")]
    sources.append((ROOT / "worldgymnast/records.py").read_text())
    named = {name for text in sources for name in re.findall(r"(?:/ |\(|, |= )\"([a-z_-]+\.json)\"", text)}
    assert named >= {"evaluation.json", "gate.json", "imagined.json"}
    page = pages()["reference/files.md"]
    assert [name for name in named - {"manifest.json"} if f"`{name}`" not in page and f"RUN/{name}" not in page] == []


def test_every_error_of_a_user_is_in_the_reference() -> None:
    configs.configs()  # imports every module

    def below(kind: type) -> set[type]:
        return {kind} | {each for sub in kind.__subclasses__() for each in below(sub)}

    own = {kind.__name__ for kind in below(InputError) if kind.__module__.startswith("worldgymnast.")}
    assert own >= {"Paused", "FieldError", "DiskFull"}
    assert [name for name in own if f"| `{name}` |" not in pages()["reference/errors.md"]] == []


def test_messages_of_the_troubleshooting_page_are_printed() -> None:
    """The first column of its tables quotes messages; literals of one message may be split over lines."""
    found = []
    for path in (ROOT / "worldgymnast").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    messages = "\n".join(found)
    rows = re.findall(r"^\| `([^`]+)` \|", (DOCS / "how-to" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 15
    assert [message for message in rows if message not in messages] == []


def test_labels_are_shown_as_they_are_written() -> None:
    assert '"labeller": "anna", "success": true, "frame": 31' in formats.label_example()


def test_cells_and_sentences() -> None:
    assert cell("a |\nb *c* `d|e`") == "a \\| b \\*c\\* `d|e`"
    assert sentence("the loss") == "The loss."
    assert sentence("") == ""


@pytest.mark.parametrize("path", sorted((ROOT / "website").glob("*.py")), ids=lambda path: path.name)
def test_examples_in_docstrings(path: Path) -> None:
    assert doctest.testmod(importlib.import_module(f"website.{path.stem}")).failed == 0

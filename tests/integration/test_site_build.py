"""The documentation site builds without a warning and loads nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    warnings = [line for line in done.stderr.splitlines() if line.startswith(("WARNING", "ERROR"))]
    assert done.returncode == 0, done.stderr
    assert warnings == []
    return folder


def test_the_site_has_every_section(site: Path) -> None:
    for page in ("index", "tutorials/lerobot", "tutorials/first-hour", "reference/cli/rl", "reference/metrics", "log"):
        assert (site / f"{page}.html").is_file(), page
    assert "finetune" in (site / "reference/api/training.html").read_text()
    assert (site / "tutorials/first-hour.ipynb").is_file()


def test_examples_of_docstrings_are_code(site: Path) -> None:
    page = (site / "reference/api/files.html").read_text()
    assert '<span class="gp">&gt;&gt;&gt; </span>' in page
    assert "<blockquote>" not in page


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=["'](?:https?:)?//([^/"']+)""")
    found = {host for page in site.rglob("*.html") for host in loaded.findall(page.read_text())}
    assert found == set()
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"url\(['\"]?https?://", styles) == []


def test_links_between_pages_lead_somewhere(site: Path) -> None:
    broken = []
    for page in site.rglob("*.html"):
        for link in re.findall(r'<a\b[^>]*?href="([^"#:]+)(?:#[^"]*)?"', page.read_text()):
            target = (page.parent / link).resolve()
            if page.name != "404.html" and not target.exists():
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


def test_arrows_of_the_navigation_have_names(site: Path) -> None:
    labels = re.findall(r"<label\b[^>]*tabindex[^>]*>.*?</label>", (site / "index.html").read_text(), re.DOTALL)
    unnamed = [label for label in labels if "aria-label=" not in label and not re.sub(r"<[^>]*>", "", label).strip()]
    assert labels
    assert unnamed == []

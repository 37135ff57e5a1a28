"""Whether what the documents name is there. What they say about input and commands is tried in `test_data_wiring`."""

import re
from pathlib import Path

import pytest

from recsys_assets.recommender.registry import ENTRIES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = [
    path.relative_to(ROOT).as_posix()
    for folder in ("recsys_assets", "recsys_assets_tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
]
PACKAGE = ROOT / "recsys_assets"


def _text(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """The addresses that GitHub gives to the headings."""
    headings = (re.sub(r"[`*]", "", found).strip().lower() for found in re.findall(r"(?m)^#+ (.*)$", _text(page)))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_pages_and_headings_that_exist(page):
    """A reader follows a link to nothing."""
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", _text(page)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_modules_and_tests_that_a_page_names_exist(page):
    """A contributor looks for a file that was renamed, or a reader for a benchmark that is gone."""
    text = page.read_text()
    own = set(re.findall(r'Path\("(\w+\.py)"\)\.write_text', text))
    modules = [name for name in re.findall(r"(?<![\w/])((?:\w+/)*\w+\.py)\b", text) if name not in own]
    gone = [name for name in modules if not any(f"/{path}".endswith(f"/{name}") for path in CODE)]
    folders = re.findall(r"`((?:cli|orchestration|home|recommender)/(?:\w+/)*)`", text)
    gone += [name for name in folders if not (PACKAGE / name).is_dir()]
    source = "".join(path.read_text() for path in (ROOT / "recsys_assets_tests").glob("*.py"))
    gone += [name for name in re.findall(r"`(test_\w+)…?`", text) if name.rstrip("_") not in source]
    assert [name for name in gone if not name.startswith("test_users_")] == []


def test_every_page_is_in_an_index():
    """A page is written and nobody finds it."""
    linked = {
        (index.parent / link).resolve()
        for index in (ROOT / "docs" / "README.md", ROOT / "docs" / "decisions" / "README.md")
        for link in re.findall(r"\]\(([^)#\s]+)", index.read_text())
    }
    pages = set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs" / "README.md"}
    assert sorted(map(str, pages - linked)) == []


def test_every_model_is_described_in_its_task():
    """A user reads the name of a model in the scores and finds nowhere what it is."""
    page = (ROOT / "docs" / "reference" / "models.md").read_text()
    sections = dict(re.findall(r"(?ms)^## `(\w+)`(.*?)(?=^## |\Z)", page))
    assert [entry for entry in ENTRIES if f"`{entry.name}`" not in sections.get(entry.task, "")] == []

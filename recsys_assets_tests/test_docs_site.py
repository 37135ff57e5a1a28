"""The docs site: every page is in its navigation, and the build needs nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
# What a browser fetches by itself: scripts, styles, pictures, fonts. A link that a person follows may lead anywhere.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'> ]*"
    r"|<link\b[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload|dns-prefetch|icon)[^>]*\bhref=[\"']?(?:https?:)?//[^>]*"
    r"|@import[^;]*//[^;]*|url\([\"']?(?:https?:)?//[^)]*\)"
)


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name Python functions."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def _pages(nav: object) -> set[str]:
    if isinstance(nav, str):
        return {nav}
    parts = nav.values() if isinstance(nav, dict) else nav
    return {page for part in parts for page in _pages(part)}


def test_the_navigation_names_every_page():
    """A page can be found by nobody who reads the site, or a menu leads to nothing."""
    nav = _pages(yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)["nav"])
    docs = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    packages = {path.parent.name for path in (ROOT / "recsys_assets" / "recommender").glob("*/__init__.py")}
    made = {"start.md", "contributing.md", "deploy.md", *(f"api/{name}.md" for name in packages)}
    assert nav == docs | made


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    """A link on the site is dead, the API cannot be read, or a page is blank and tells others who reads it."""
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".html", ".css")]
    assert [found[0] for path in files for found in FETCHED.finditer(path.read_text())] == []
    assert "EASEModel" in (tmp_path / "api" / "models.html").read_text()
    assert "fold_in" in (tmp_path / "search" / "search_index.json").read_text()

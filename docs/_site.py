"""MkDocs hooks: pages of the site that do not lie in docs/, and the links to them.

README, CONTRIBUTING and deploy/README stay where GitHub shows them. The pages of the API are made from the packages.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
_OUTSIDE = {"README.md": "start.md", "CONTRIBUTING.md": "contributing.md", "deploy/README.md": "deploy.md"}
_PACKAGE = "recsys_assets.recommender"
_LINK = re.compile(r"(?<!`)(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside of docs/, and one page per package of the API."""
    for source, page in _OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for package in sorted((ROOT / _PACKAGE.replace(".", "/")).glob("*/__init__.py")):
        name = package.parent.name
        content = f"# {name}\n\n::: {_PACKAGE}.{name}\n"
        files.append(File.generated(config, f"api/{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links between the places in the repository into links between the pages of the site."""
    uri = page.file.src_uri
    lies_in = {made: source for source, made in _OUTSIDE.items()}.get(uri, f"docs/{uri}")

    def linked(found: re.Match[str]) -> str:
        sign, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        if not target:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(lies_in), target))
        there = _OUTSIDE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if there is None:
            # Files such as LICENSE or a compose file are no part of the site.
            return text
        return f"{sign}[{text}]({posixpath.relpath(there, posixpath.dirname(uri) or '.')}{anchor})"

    return _LINK.sub(linked, markdown)

"""Hooks of MkDocs: pages of the API, and files that lie outside this folder.

Every module of the package gets a page by itself, in the order of the folders; a new file needs no
line here. A page may link to any file of the repository by its relative path, as a code host shows
it: the site then holds a copy of that file, and the link leads to the copy.
"""

import ast
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "supernet_jax"
# Pages that lie outside docs/, and where the site has them.
PAGES = {
    ROOT / "README.md": "index.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the API to the navigation."""
    assert config.nav is not None
    config.nav.append({"API": _navigation(PACKAGE)})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds what lies outside docs/: pages of the API, PAGES, and files that pages link to."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    linked = {
        target
        for page in [*DOCS.rglob("*.md"), *PAGES]
        for target in _targets(page.read_text("utf-8"), page)
        if target.is_file() and not target.is_relative_to(DOCS) and target not in PAGES
    }
    for path in sorted(linked):
        files.append(File.generated(config, _uri(path), abs_src_path=str(path)))
    for path in sorted(PACKAGE.rglob("*.py")):
        if _public(path):
            files.append(File.generated(config, _api_uri(path), content=_api_page(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Links that leave docs/, or come from outside it, lead to where the site has those files."""
    here = pathlib.Path(page.file.abs_src_path or DOCS / page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target = (here.parent / match[2]).resolve()
        if not target.is_file():
            return match[0]
        uri = os.path.relpath(_uri(target), os.path.dirname(page.file.src_uri) or ".")
        return f"{match[1]}{uri}{match[3] or ''}"

    return LINK.sub(moved, markdown)


def _targets(markdown: str, page: pathlib.Path) -> Iterator[pathlib.Path]:
    for match in LINK.finditer(markdown):
        yield (page.parent / match[2]).resolve()


def _uri(path: pathlib.Path) -> str:
    """Where the site has a file of the repository."""
    if path in PAGES:
        return PAGES[path]
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"files/{path.relative_to(ROOT).as_posix()}"


def _public(path: pathlib.Path) -> bool:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return all(not part.startswith("_") or part == "__init__" for part in parts)


def _api_uri(path: pathlib.Path) -> str:
    page = path.relative_to(PACKAGE).with_suffix(".md")
    return f"api/{page.with_name('index.md') if page.stem == '__init__' else page}"


def _api_page(path: pathlib.Path) -> str:
    """The page of a module; that of a folder also lists what is in it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] != "__init__":
        return f"::: {'.'.join(parts)}\n"
    rows = [
        f"| [{inner.parent.name if inner.stem == '__init__' else inner.stem}]"
        f"({os.path.relpath(_api_uri(inner), os.path.dirname(_api_uri(path)))}) | {_first(inner)} |"
        for inner in _inside(path.parent)
    ]
    table = "\n".join(["| | |", "|---|---|", *rows])
    return f"::: {'.'.join(parts[:-1])}\n\n{table}\n"


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
    """Folders first, then modules, each by name; a folder is its `__init__.py`."""
    found = [*sorted(folder.glob("*/__init__.py")), *sorted(folder.glob("*.py"))]
    return [path for path in found if _public(path) and path != folder / "__init__.py"]


def _first(path: pathlib.Path) -> str:
    """What a module says of itself in its first paragraph, for a table."""
    text = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n\n")[0]
    return " ".join(text.split()).replace("|", "\\|")


def _navigation(folder: pathlib.Path) -> list[Any]:
    pages: list[Any] = [_api_uri(folder / "__init__.py")]
    for inner in _inside(folder):
        if inner.stem == "__init__":
            pages.append({inner.parent.name: _navigation(inner.parent)})
        else:
            pages.append({inner.stem: _api_uri(inner)})
    return pages

"""The documents: no link is dead, and the site of all of them builds without a warning."""

import importlib
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
NOW = [page for page in PAGES if page.name != "CHANGELOG.md"]  # that is about the past, too
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
PLANTED = "def planted() -> None:\n    '''What it does.'''\n"
needs_mkdocs = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason='the site needs pip install ".[docs]"'
)


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def dead_links(page: pathlib.Path) -> Iterator[str]:
    """Relative links of a page to a file that is not there, or to a heading that it lacks."""
    for link in LINK.findall(CODE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_is_dead(page: pathlib.Path) -> None:
    assert list(dead_links(page)) == []


def test_a_dead_link_is_found(tmp_path: pathlib.Path) -> None:
    (tmp_path / "there.md").write_text("# One: `two` & three\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](there.md) [b](there.md#one-two--three) [c](#here) [d](https://x.org/y) "
        "`[e](code.md)`\n```\n[f](code.md)\n```\n"
        "[g](gone.md) [h](there.md#no-heading) [i](#there) ![j](gone.png)\n"
    )
    assert list(dead_links(page)) == ["gone.md", "there.md#no-heading", "#there", "gone.png"]


def missing(text: str) -> Iterator[str]:
    """Files, and names that are imported, that a page mentions and that are not there."""
    for path in re.findall(r"`((?:benchmarks|configs|docs|supernet_jax|tests)/[\w./]*)`", text):
        if not (ROOT / path).exists():
            yield path
    for module, names in re.findall(r"^from (supernet_jax[\w.]*) import ([\w, ]+)$", text, re.M):
        for name in names.split(", "):
            try:  # a name of the module, or a module of the package
                if not hasattr(importlib.import_module(module), name):
                    importlib.import_module(f"{module}.{name}")
            except ModuleNotFoundError:
                yield f"{module}.{name}"


@pytest.mark.parametrize("page", NOW, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_is_there(page: pathlib.Path) -> None:
    assert list(missing(page.read_text("utf-8"))) == []


def test_what_is_not_there_is_found() -> None:
    text = "`docs/gone.md` `docs/data.md`\nfrom supernet_jax.errors import UserError, Gone\n"
    assert list(missing(text)) == ["docs/gone.md", "supernet_jax.errors.Gone"]


def test_every_decision_is_in_the_index_and_says_what_was_measured() -> None:
    index = (DOCS / "decisions" / "index.md").read_text("utf-8")
    pages = [page for page in (DOCS / "decisions").glob("*.md") if page.name != "index.md"]
    assert len(pages) > 5 and {page.name for page in pages} <= set(LINK.findall(index))
    for page in pages:
        assert {"context", "decision", "what-was-measured"} <= anchors(page), page


def test_the_glossary_is_in_order() -> None:
    """Each word is a heading, so that pages can link to it, and has a few plain sentences."""
    text = (DOCS / "glossary.md").read_text("utf-8")
    _, *entries = re.split(r"^## ", text, flags=re.MULTILINE)
    words = [entry.partition("\n")[0] for entry in entries]
    assert words == sorted(words, key=str.lower) and len(words) > 30
    for word, entry in zip(words, entries, strict=True):
        assert LINK.search(entry), f"{word} links to nothing"
        assert entry.count(". ") <= 3, f"{word} is a page of its own"


def test_the_citation_has_the_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for ours, theirs in (("title", "name"), ("version", "version"), ("license", "license")):
        assert cited[ours] == project[theirs]


def build(folder: pathlib.Path, site: pathlib.Path, config: str = "mkdocs.yml") -> str:
    """Builds the site strictly, in a process that must not import JAX; what it said."""
    code = (
        "import sys; from mkdocs.__main__ import cli; "
        "cli(sys.argv[1:], standalone_mode=False); assert 'jax' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "build", "--strict", "-f", config, "-d", str(site)],
        cwd=folder,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) == ("WARNING" not in done.stderr), done.stderr
    return done.stderr


@needs_mkdocs
def test_the_site_builds_without_a_warning(tmp_path: pathlib.Path) -> None:
    said = build(ROOT, tmp_path)
    assert "WARNING" not in said, said
    for page in DOCS.rglob("*.md"):
        uri = page.relative_to(DOCS).with_suffix("")
        assert (tmp_path / (uri.parent if uri.name == "index" else uri) / "index.html").is_file()
    for module in (ROOT / "supernet_jax").rglob("[!_]*.py"):
        uri = module.relative_to(ROOT / "supernet_jax").with_suffix("")
        text = (tmp_path / "api" / uri / "index.html").read_text("utf-8")
        assert ".".join(("supernet_jax", *uri.parts)) in text


@needs_mkdocs
def test_a_new_module_has_a_page_and_a_dead_link_is_an_error(tmp_path: pathlib.Path) -> None:
    for name in ("mkdocs.yml", "docs/hooks.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "small.yml").write_text(
        "INHERIT: mkdocs.yml\nnav: [index.md, contributing.md, changelog.md, page.md]\n"
    )
    (tmp_path / "README.md").write_text("# Home\n[page](docs/page.md#what)\n")
    (tmp_path / "CONTRIBUTING.md").write_text("# Contributing\n[home](README.md)\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n")
    (tmp_path / "set.py").write_text("config = 1\n")
    room = tmp_path / "supernet_jax" / "room"
    room.mkdir(parents=True)
    (room.parent / "__init__.py").write_text('"""All."""\n')
    (room / "__init__.py").write_text('"""A room."""\n')
    (room / "new.py").write_text(f'"""A module."""\n\n{PLANTED}')
    page = tmp_path / "docs" / "page.md"
    page.write_text("# What\n[home](../README.md) [file](../set.py) [dead](gone.md)\n")
    assert "gone.md" in build(tmp_path, tmp_path / "site", "small.yml")

    page.write_text("# What\n[home](../README.md) [file](../set.py)\n")
    said = build(tmp_path, tmp_path / "site", "small.yml")
    assert "WARNING" not in said, said
    site = tmp_path / "site"
    assert "What it does." in (site / "api/room/new/index.html").read_text()
    assert "A module." in (site / "api/room/index.html").read_text()
    assert (site / "files/set.py").read_text() == "config = 1\n"
    shown = (site / "page/index.html").read_text()
    assert 'href="../files/set.py"' in shown and 'href="../files/README.md"' not in shown
    assert 'href="page/#what"' in (site / "index.html").read_text()

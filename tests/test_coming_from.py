"""The pages for those who come from other libraries: our calls and commands on them are there.

The examples are too long to run here; what can break them is a name or an argument that changes.
"""

import ast
import inspect
import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ROOT

import supernet_jax as sj
from supernet_jax.cli import main

PAGES = sorted((ROOT / "docs" / "coming_from").glob("*.md"))
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)
VIT = "import supernet_jax as sj\nconfig = sj.Config(space=sj.spaces.VitSupernet(resolution=16))\n"


def blocks(page: pathlib.Path, language: str) -> list[str]:
    found = BLOCK.findall(page.read_text("utf-8"))
    return [text for kind, text in found if kind == language]


def named(path: str) -> Any:
    """What a dotted name stands for.

    Raises:
        AttributeError: there is no such name.
    """
    found: Any = sj
    for part in path.split(".")[1:]:
        found = getattr(found, part)
    return found


def wrong_calls(source: str) -> Iterator[str]:
    """Calls of the library's that do not fit what they call."""
    for node in ast.walk(ast.parse(source)):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if not isinstance(node, ast.Call) or not re.fullmatch(r"sj(\.\w+)+", called):
            continue
        named_arguments = {one.arg: None for one in node.keywords if one.arg is not None}
        bind = inspect.signature(named(called)).bind_partial
        try:
            bind(*[None] * len(node.args), **named_arguments)
        except TypeError as error:
            yield f"{called}: {error}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_name_and_call_is_there(page: pathlib.Path) -> None:
    text = page.read_text("utf-8")
    names = set(re.findall(r"\bsj(?:\.[A-Za-z_]\w*)+", text))
    assert len(names) > 8
    for name in names:
        named(name)
    calls = [*blocks(page, "python"), *re.findall(r"`(sj\.[^`]*\))`", text)]
    assert len(calls) > 4
    for call in calls:
        whole = call.replace("=...", "=None").replace("{...}", "{}").replace("(...", "(None")
        assert list(wrong_calls(whole)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_understood(
    page: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "my_vit.py").write_text(VIT)
    text = "".join(blocks(page, "sh")).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in text.splitlines()]
    assert len(commands) >= 5
    for program, name, *rest in commands:
        assert program == "supernet"
        main._parsed(main.module(name), rest, name)


def test_what_is_wrong_is_found() -> None:
    source = "sj.search(run, hihg=3)\nsj.losses.AlphaDivergence(clip=5.0)\nsj.spaces.Digits(3)\n"
    assert [one.partition(":")[0] for one in wrong_calls(source)] == [
        "sj.search",
        "sj.spaces.Digits",
    ]
    with pytest.raises(AttributeError):
        named("sj.losses.Beta")

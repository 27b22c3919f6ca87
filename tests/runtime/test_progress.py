"""Progress in a notebook; in terminals and files it is tested with the commands."""

import sys
import types
from typing import Any

import pytest
import rich.console

from supernet_jax.runtime import progress


def test_a_bar_redraws_in_a_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    handle = types.SimpleNamespace(update=lambda page: shown.append(page))
    display = types.ModuleType("IPython.display")

    def first(page: str, *, display_id: bool) -> Any:
        assert display_id
        shown.append(page)
        return handle

    vars(display).update(display=first, HTML=str)
    package = types.ModuleType("IPython")
    vars(package).update(display=display)
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    with progress.bar("trying", 5, done=2, unit="arch") as advance:
        advance(2, "<best>")
        advance()
    values = [page.split('value="')[1].split('"')[0] for page in shown]
    assert values == ["2", "4", "5", "5"] and 'max="5"' in shown[0]
    assert "trying 4/5" in shown[1] and "&lt;best&gt;" in shown[1] and "archs/s" in shown[1]
    assert "<best>" not in "".join(shown)
    assert capsys.readouterr() == ("", "")

    monkeypatch.setattr(progress, "REDRAW_SECONDS", 60.0)
    shown.clear()
    with pytest.raises(KeyboardInterrupt):
        with progress.bar("trying", 100) as advance:
            for _ in range(50):
                advance()
            raise KeyboardInterrupt
    assert len(shown) == 2 and 'value="50"' in shown[-1]  # what was done stays to be seen

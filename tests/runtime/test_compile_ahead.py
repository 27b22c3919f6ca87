"""Programs by key: made once, by whoever needs them first, and ahead by threads."""

import gc
import threading
import weakref
from typing import Any

import pytest

from supernet_jax.runtime import compile_ahead
from supernet_jax.runtime.compile_ahead import Programs


def test_each_is_made_once() -> None:
    programs, made = Programs(), []

    def make(name: str) -> Any:
        return lambda: made.append(name) or name.upper()

    assert programs.get("a", make("a")) == "A" and programs.get("a", make("a")) == "A"
    assert programs.get("b", make("b")) == "B"
    assert made == ["a", "b"] and len(programs) == 2


def test_who_needs_what_a_thread_makes_waits_for_it() -> None:
    programs, may_end, begun = Programs(), threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert may_end.wait(60)
        return threading.current_thread().name

    programs.ahead([("slow", slow)])
    assert begun.wait(60)
    threading.Timer(0.05, may_end.set).start()
    assert programs.get("slow", lambda: "made twice") == "compile"


def test_an_error_reaches_who_needs_it() -> None:
    def broken() -> None:
        raise ValueError("no such program")

    programs = Programs()
    programs.ahead([("broken", broken), ("next", lambda: 1)])
    assert programs.get("next", lambda: 2) in (1, 2)
    with pytest.raises(ValueError, match="no such program"):
        programs.get("broken", broken)


def test_in_the_order_in_which_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_ahead, "WORKERS", 1)
    programs, made = Programs(), []
    wanted = [(i, lambda i=i: made.append(i)) for i in range(20)]
    programs.ahead(wanted)
    done = threading.Event()
    programs.ahead([("last", done.set)])
    assert done.wait(60) and made == list(range(20))
    assert programs.waiting == 0


def test_what_was_not_begun_goes_with_the_programs() -> None:
    programs, may_end, begun = Programs(), threading.Event(), threading.Event()
    made = []

    def slow() -> None:
        begun.set()
        assert may_end.wait(60)

    many = [(f"slow {i}", slow) for i in range(compile_ahead.WORKERS)]
    programs.ahead([*many, *[(i, lambda: made.append(1)) for i in range(50)]])
    assert begun.wait(60)
    gone = weakref.ref(programs)
    threading.Timer(0.1, may_end.set).start()
    del programs
    gc.collect()
    assert gone() is None and made == []
    assert not any(thread.name == "compile" for thread in threading.enumerate())

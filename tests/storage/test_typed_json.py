"""One dialect of JSON: declared types say how a value is read, and `Any` lets it say so itself."""

import dataclasses
import json
from typing import Any, Literal

import pytest

from supernet_jax.errors import UserError
from supernet_jax.storage import typed_json


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Outer:
    sizes: tuple[int, ...]
    inner: Inner
    by_name: dict[str, Inner]
    part: Any
    raw: object
    later: Inner | None = None


NAMED = {"Inner": Inner, "Outer": Outer}
WHOLE = Outer((1, 2), Inner(0.5), {"x": Inner(1.0, "b")}, (Inner(2.0), 3, "x"), {"a": [1, None]})


def declared(value: Outer) -> dict[str, Any]:
    """As files hold it whose dataclasses are declared; only below `Any` there are names."""
    return {**dataclasses.asdict(value), "part": typed_json.to_json(value.part)}


def read(value: Any, kind: Any = Outer) -> Any:
    return typed_json.parse(kind, json.loads(json.dumps(value)), "it", named=NAMED)


def test_declared_and_named_are_read_alike() -> None:
    assert read(declared(WHOLE)) == WHOLE
    assert isinstance(read(declared(WHOLE)).raw["a"], list)
    named = dataclasses.replace(WHOLE, by_name=(), raw=())
    assert read(typed_json.to_json(named), Any) == named


def test_what_came_later_takes_its_default_both_ways() -> None:
    old = {"sizes": [], "inner": {"rate": 1}, "by_name": {}, "part": None, "raw": 0}
    wanted = Outer((), Inner(1.0), {}, None, 0)
    assert read(old) == wanted and isinstance(read(old).inner.rate, float)
    assert read({"type": "Inner", "rate": 2}, Any) == Inner(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [1, True]}, r"it\.sizes\[1\] is true, but must be a whole number"),
        ({"sizes": 1}, r"it\.sizes is 1, but must be a list"),
        ({"inner": {"rate": float("inf")}}, r"it\.inner\.rate is Infinity, but must be a finite"),
        ({"inner": {"rate": 1, "kind": "c"}}, r"it\.inner\.kind is \"c\", but must be a or b"),
        ({"by_name": {"x": 3}}, r"it\.by_name\.x is 3, but must be an object"),
        ({"later": {}}, r"it\.later has fields missing rate; it must have rate, kind: was it"),
        ({"part": {"rate": 1}}, r"it\.part is a 'None', which is not part of the library"),
        ({"part": [{"type": "Inne"}]}, r"it\.part\[0\] is a 'Inne', .*did you mean Inner"),
        ({"part": {"type": "Inner"}}, r"it\.part \(Inner\) has fields missing rate"),
        ({"latr": None}, r"it has fields unknown latr, did you mean later\?; it must have"),
    ],
)
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read({**declared(WHOLE), **change})

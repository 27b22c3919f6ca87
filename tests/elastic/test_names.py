"""Names that no file could hold are refused when a space is built, not after it was trained."""

import dataclasses
import io
import pathlib
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from tiny_run import supernet

from supernet_jax.cli import info
from supernet_jax.elastic import shared_params, strategies
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.nn import layers
from supernet_jax.storage import user_code
from supernet_jax.tasks import ImageClassification

BAD: tuple[Any, ...] = ("a/b", "a\\b", "..", ".", "", "a\nb", "\udcfc", "x" * 101, 0, 1.5, None)
GOOD = ("a b", "Übung", "a.b", "_x", "日本", "x" * 100)
MENU = {"resolution": Choice((4,)), "width": Choice((2, 3))}


@dataclasses.dataclass(frozen=True)
class Spec:
    c_in: int
    classes: int
    layer: Any = "linear"


class Linear(nn.Module):
    spec: Spec

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return layers.Dense(self.spec.classes, name=self.spec.layer)(jnp.mean(x, (1, 2)))


class Tree(nn.Module):
    """A parameter that is more than an array."""

    spec: Spec

    @nn.compact
    def __call__(self, x: Any) -> Any:
        made = self.spec.layer(jnp.ones((self.spec.c_in, self.spec.classes)))
        kept = self.param("tree", lambda key: made)
        [weights] = kept.values() if isinstance(kept, dict) else kept
        return jnp.mean(x, (1, 2)) @ weights


def block(kind: Any = Linear, **spec: Any) -> ElasticBlock:
    return elastic(kind, lambda w: Spec(3, 2, **spec), menu=MENU, decisions=[("width",)])


def space(name: Any = "only", menu: Any = MENU, given: ElasticBlock | None = None) -> Space:
    blocks = {name: given or block()}
    task = ImageClassification(3, 2)
    return Space("named", menu, blocks, strategies.chain((name,)), task, (("resolution",),))


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_names_of_blocks_groups_and_decisions(name: Any) -> None:
    with pytest.raises(UserError, match=r"a block is called .* rename it"):
        space(name)
    if name is not None:  # no group
        with pytest.raises(UserError, match=r"the group of block 'only' is called .* rename it"):
            space(given=dataclasses.replace(block(), group=name))
    for menu in ({name: Choice((1,))}, {"list": [{name: Choice((1,))}]}):
        with pytest.raises(UserError, match=r"a decision in the menu is called .* rename it"):
            space(menu={"resolution": Choice((4,)), "width": Choice((2, 3))} | menu)


@pytest.mark.parametrize("name", [n for n in BAD if isinstance(n, str) and n], ids=ascii)
def test_names_of_layers(name: str) -> None:
    built = space(given=block(layer=name))
    with pytest.raises(UserError, match=r"layer or parameter in block 'only' is called .* rename"):
        shared_params.parameter_shapes(built)


def in_a_list(x: Any) -> Any:
    return [x]


def under_a_number(x: Any) -> Any:
    return {0: x}


def under_a_path(x: Any) -> Any:
    return {"a/b": x}


@pytest.mark.parametrize("made", [in_a_list, under_a_number, under_a_path])
def test_parameters_that_are_trees(made: Any) -> None:
    built = space(given=block(Tree, layer=made))
    told = "is a list, not an array" if made is in_a_list else "is called .*rename it"
    with pytest.raises(UserError, match=f"in block 'only' .*{told}"):
        shared_params.parameter_shapes(built)


@pytest.mark.parametrize("name", GOOD)
def test_all_other_names(name: str) -> None:
    built = space(name, given=block(layer=name))
    assert set(shared_params.parameter_shapes(built)) == {name}
    assert set(shared_params.parameter_shapes(built)[name]) == {name}


def test_a_topology_without_its_block() -> None:
    odd = dataclasses.replace(space(), forward=strategies.chain(("onyl",)))
    with pytest.raises(UserError, match=r"runs a block 'onyl', which is not .* did you mean only"):
        shared_params.parameter_shapes(odd)


def test_a_file_whose_path_is_no_text(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "b\udcfcro.py"
    path.write_text("config = None", encoding="utf-8")
    with pytest.raises(UserError, match=r"the path .*b\\udcfcro\.py is not UTF-8 in this locale"):
        user_code.run(path)


def test_bars_where_there_are_no_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, bars in (("ascii", "@"), ("latin-1", "@"), ("utf-8", "█")):
        written = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding))
        print(info._bars(np.array([1.0, 1.0, 5.0]), 0, 10), flush=True)
        assert bars in written.getvalue().decode(encoding)


@pytest.mark.parametrize("where", ["blocks", "layers"])
def test_nothing_is_trained(
    where: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = (ROOT / "tests" / "tiny_config.py").read_text("utf-8")
    old, new = ('"second"', '"a/b"') if where == "blocks" else ('name="conv"', 'name="a/b"')
    (tmp_path / "mine.py").write_text(own.replace(old, new), encoding="utf-8")
    said = supernet(capsys, "train", tmp_path / "mine.py", "--out", tmp_path / "run")
    assert said.status == 2 and "is called 'a/b'; names are text" in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()

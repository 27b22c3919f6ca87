"""Folders of networks for text: written, loaded back and run, and what is said of edited ones."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from theorem import largest_difference, random_params
from tiny_space import decoding, encoding

import supernet_jax as sj
from supernet_jax.elastic import choices
from supernet_jax.errors import UserError
from supernet_jax.networks import extract, manifest, network_folder
from supernet_jax.networks.formats import table
from supernet_jax.networks.formats.format import Export

FORMATS = ("safetensors", "stablehlo", "onnx")
SPACES = {"decoding": decoding, "encoding": encoding}
TOKENS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], np.int32)


@pytest.fixture(scope="module", params=SPACES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder, and the module and variables that it was made of."""
    space = SPACES[request.param]()
    params, arch = random_params(space), choices.smallest(space.menu)
    module, variables = extract.extract(space, params, arch, None)
    proof = extract.prove(space, params, arch, None, module, variables, TOKENS)
    description = extract.describe_any(
        space,
        arch,
        module,
        variables,
        values={"test": 9.5},
        source={"run": "none"},
        proof=proof,
        proof_examples=len(TOKENS),
    )
    folder = tmp_path_factory.mktemp("networks") / request.param
    formats = table.chosen(FORMATS, pixels=False, size=None)
    export = Export(module, variables, description, (), pixels=False)
    network_folder.save(
        folder,
        module,
        variables,
        description=description,
        write=table.writer(formats, export, table.fed(TOKENS, export)),
        card=table.card(formats),
    )
    return folder, module, variables


def test_what_is_written_is_the_network(written: Any) -> None:
    folder, module, variables = written
    back, weights = sj.load(folder)
    assert back == module
    equal = jax.tree.map(lambda a, b: np.array_equal(a, b), weights["params"], variables["params"])
    assert all(jax.tree.leaves(equal))
    description = manifest.read_description(folder)
    assert description["version"] == manifest.GENERAL_VERSION and description["size"] == []
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| perplexity on test | 9.5 |" in card and "images" not in card
    assert "sj.generate" not in card  # it writes bytes, these are 11 ids


def test_a_program_for_any_number_and_length(written: Any) -> None:
    folder, module, variables = written
    run = table.load(folder, "stablehlo")
    for tokens in (TOKENS[:1, :2], np.tile(TOKENS, (2, 1))[:3]):  # TOKENS themselves were compared
        expected = jax.jit(module.apply)(variables, tokens)
        assert largest_difference(run(tokens), expected) < 1e-5


def test_what_a_folder_for_text_refuses(written: Any, tmp_path: pathlib.Path) -> None:
    folder, _, _ = written
    with pytest.raises(UserError, match=r"for (masked )?language modelling, which takes no im"):
        sj.inputs(folder, ["cat.jpg"])
    description = manifest.read_description(folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    for edit, said in (
        ({"task": {"type": "Mystery", "fields": {}}}, "task.type is 'Mystery', but the library"),
        ({"version": 6}, "has version 6, this library reads 1 to 5"),
        ({"classes": ["a"]}, "unknown classes"),
        ({"space": "other", "dtype": "float16"}, "has been changed since it was written"),
    ):
        (copy / "network.json").write_text(json.dumps({**description, **edit}), encoding="utf-8")
        with pytest.raises(UserError, match=said):
            sj.load(copy)


def test_an_older_folder_for_text(written: Any, tmp_path: pathlib.Path) -> None:
    folder, module, _ = written
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    now = manifest.read_description(folder)
    gone = ("values", "topology", "calibration")
    then = {name: value for name, value in now.items() if name not in gone}
    older = {**then, "version": 4, "perplexity": now["values"]}
    (copy / "network.json").write_text(json.dumps(older), encoding="utf-8")
    assert sj.load(copy)[0] == module
    assert manifest.read_description(copy)["values"] == {"test": 9.5}

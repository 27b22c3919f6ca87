"""PyTorch: the same logits and the same training from a file that needs nothing of this library."""

import ast
import json
import pathlib
from typing import Any

import exported
import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from PIL import Image

from supernet_jax.networks.formats import torch as torch_format
from supernet_jax.storage import user_code

FORMAT = torch_format.FORMAT


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed; it is no dependency")


@pytest.mark.parametrize("case", exported.CASES)
def test_same_logits(case: str, tmp_path: pathlib.Path, torch: Any) -> None:
    FORMAT.write(tmp_path, exported.export(case))
    run, images, wanted = FORMAT.load(tmp_path), exported.images(case), exported.logits(case)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert files == ["torch", "torch/model.py", "torch/model.safetensors"]
    assert exported.difference(run(images), wanted) <= exported.TOLERANCE
    assert exported.difference(run(images[:1]), wanted[:1]) <= exported.TOLERANCE


@pytest.mark.parametrize("case", exported.TEXTS)
def test_text_of_any_length(case: str, tmp_path: pathlib.Path, torch: Any) -> None:
    FORMAT.write(tmp_path, exported.export(case))
    run = FORMAT.load(tmp_path)
    for tokens, wanted in exported.other_lengths(case):
        assert exported.difference(run(tokens), wanted) <= exported.TOLERANCE


def test_tied_logits_stay_tied_in_training(tmp_path: pathlib.Path, torch: Any) -> None:
    network = written(tmp_path, "text, rotary").load().train()
    tokens = torch.from_numpy(exported.images("text, rotary"))
    network(tokens).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
    torch.optim.SGD(network.parameters(), 0.1).step()
    state = network.state_dict()
    assert torch.equal(state["head.tokens.weight"], state["embed.tokens.weight"])


def test_pixels(tmp_path: pathlib.Path, torch: Any) -> None:
    case = "everything"
    FORMAT.write(tmp_path, exported.export(case, pixels=True))
    logits = FORMAT.load(tmp_path)(exported.images(case, pixels=True))
    assert exported.difference(logits, exported.logits(case, pixels=True)) <= exported.TOLERANCE


def written(tmp_path: pathlib.Path, case: str, **changes: Any) -> Any:
    """The module `model.py`."""
    FORMAT.write(tmp_path, exported.export(case)._replace(**changes))
    return user_code.run(tmp_path / "torch" / "model.py")


def test_training_uses_statistics_of_the_batch(tmp_path: pathlib.Path, torch: Any) -> None:
    case, block = "digits, smallest", "stage2_block1"
    network = written(tmp_path, case).load()
    assert not any(module.training for module in network.modules())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    made, images = exported.export(case), exported.images(case)
    run = jax.jit(
        lambda params, x: made.network.apply({"params": params}, x, mutable=["moments"]),
        compiler_options=exported.FAST,
    )
    wanted, moments = run(made.variables["params"], images)
    logits = network.train()(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert exported.difference(logits.detach().numpy(), np.asarray(wanted)) <= exported.TOLERANCE
    after = network.state_dict()
    assert after["stem.norm.num_batches_tracked"] == 8 + 1
    for leaf, name in (("mean", "running_mean"), ("var", "running_var")):
        batch = np.asarray(moments["moments"][block]["expand_norm"][leaf])
        old, new = (state[f"{block}.expand_norm.{name}"].numpy() for state in (before, after))
        np.testing.assert_allclose(new, 0.9 * old + 0.1 * batch, rtol=1e-5)
    logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


def test_dropout_and_drop_path_only_in_training(tmp_path: pathlib.Path, torch: Any) -> None:
    model = written(tmp_path, "everything")
    branch, x = model.DropPath(0.25), torch.ones(64, 2, 3, 3)
    assert torch.equal(branch.eval()(x), x)
    y = branch.train()(x)
    assert set(y.unique().tolist()) == {0.0, float(np.float32(1) / np.float32(0.75))}
    assert all(len(image.unique()) == 1 for image in y)
    head = model.KINDS["Head"](4, 4, 4, 4, 0.5)
    assert head.dropout.p == 0.5


def test_one_image(
    tmp_path: pathlib.Path,
    torch: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = "everything"
    pixels = exported.images(case, pixels=True)[0]
    Image.fromarray(pixels).save(tmp_path / "image.png")
    logits = exported.logits(case, pixels=True)[0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    best = int(shares.argmax())
    for as_pixels in (False, True):
        (tmp_path / str(as_pixels)).mkdir()
        model = written(tmp_path / str(as_pixels), case, pixels=as_pixels)
        monkeypatch.setattr("sys.argv", ["model.py", str(tmp_path / "image.png")])
        model.main()
        first, *rest = capsys.readouterr().out.splitlines()
        assert first.split() == [f"{shares[best]:.1%}", "abcdefg"[best]] and len(rest) == 4
    monkeypatch.setattr("sys.argv", ["model.py"])
    model.main()
    assert capsys.readouterr().out.startswith("usage: python model.py IMAGE")


def test_nothing_but_constants_differs(tmp_path: pathlib.Path) -> None:
    made = exported.export("everything")
    nasty = ['"); import os', "it's\n#", '"""', "\\", "# ---- what it is made of\n"]
    description = {**made.description, "classes": nasty * 2}
    FORMAT.write(tmp_path, made._replace(description=description))
    text = (tmp_path / "torch" / "model.py").read_text()
    parsed, template = (ast.parse(t) for t in (text, torch_format.TEMPLATE.read_text()))
    constants = taken(parsed)
    assert constants.pop("PREPARATION") == {
        **{"height": 22, "width": 22, "centre": None, "filter": "bilinear"},
        **{"upright": False, "background": "none"},
    }
    assert constants.pop("CLASSES") == nasty * 2
    assert constants.pop("BLOCKS")[1] == (
        "plain",
        "MBConv",
        {
            **{"c_in": 8, "c_out": 8, "middle": 16, "kernel": 3, "stride": 1, "expand": False},
            **{"reduced": 0, "shortcut": "identity", "drop_path": 0.0},
        },
    )
    assert constants == {
        **{"PIXELS": False, "RESOLUTION": 13, "CHANNELS": 3},
        **{"EPSILON": 1e-5, "LAYER_EPSILON": 1e-5},
        **{"MEAN": (0.5, 0.25, 0.4), "STD": (0.3, 0.2, 0.25)},
    }
    taken(template)
    assert ast.dump(parsed) == ast.dump(template)
    imported = {
        name.split(".")[0]
        for node in ast.walk(parsed)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or node.names[0].name]
    }
    assert imported == {
        *("io", "typing", "pathlib", "sys", "collections", "functools"),
        *("torch", "safetensors", "PIL"),
    }


@pytest.mark.parametrize("case", exported.TEXTS)
def test_nothing_but_constants_differs_in_text(case: str, tmp_path: pathlib.Path) -> None:
    FORMAT.write(tmp_path, exported.export(case))
    text = (tmp_path / "torch" / "model.py").read_text()
    parsed, template = (ast.parse(t) for t in (text, torch_format.TEXT_TEMPLATE.read_text()))
    constants, there = taken(parsed), taken(template)
    blocks = constants.pop("BLOCKS")
    assert [name for name, _, _ in blocks] == [b.name for b in exported.export(case).network.blocks]
    assert there.pop("BLOCKS")[0][1] == "TokenEmbedding" and constants == there
    assert ast.dump(parsed) == ast.dump(template)
    if case == "text, rotary":
        sizes = {"c_in": 6, "num_heads": 6, "kv_heads": 2, "head_dim": 4, "hidden": 9}
        more = {"rotary": True, "activation": "silu", "drop_path": 0.1}
        assert blocks[1] == ("grouped", "DecoderBlock", {**sizes, **more})


def taken(tree: ast.Module) -> dict[str, Any]:
    """Takes the assignments of literals out of a module, and tells them."""
    found = {}
    for node in list(tree.body):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            name = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            if name not in ("KINDS", "Activation"):
                found[name] = ast.literal_eval(node.value)
                tree.body.remove(node)
    return found


def test_weights_of_text_without_pytorch(tmp_path: pathlib.Path) -> None:
    made = exported.export("text, rotary")
    FORMAT.write(tmp_path, made)
    state = safetensors.numpy.load_file(tmp_path / "torch" / "model.safetensors")
    params = made.variables["params"]["grouped"]["attention"]
    query = params["query"]["kernel"].reshape(6, 6 * 4)
    np.testing.assert_array_equal(state["grouped.attention.query.weight"], query.T)
    merge = params["merge"]["kernel"].reshape(6 * 4, 6)
    np.testing.assert_array_equal(state["grouped.attention.merge.weight"], merge.T)
    assert state["grouped.attention.key.weight"].shape == (2 * 4, 6)
    for block in ("embed", "head"):
        table = made.variables["params"]["embed"]["tokens"]["table"]
        np.testing.assert_array_equal(state[f"{block}.tokens.weight"], table)


def test_weights_without_pytorch(tmp_path: pathlib.Path) -> None:
    made = exported.export("everything")
    FORMAT.write(tmp_path, made)
    state = safetensors.numpy.load_file(tmp_path / "torch" / "model.safetensors")
    kernel = made.variables["params"]["pooled"]["depthwise"]["kernel"]
    np.testing.assert_array_equal(state["pooled.depthwise.weight"], kernel.transpose(3, 2, 0, 1))
    assert state["pooled.depthwise.weight"].shape == (24, 1, 3, 3)
    with safetensors.safe_open(tmp_path / "torch" / "model.safetensors", "np") as file:
        assert json.loads(file.metadata()["preparation"]) == made.description["preparation"]
    assert state["head.classifier.weight"].shape == (7, 16)
    assert state["stem.norm.num_batches_tracked"] == 8
    assert state["stem.norm.num_batches_tracked"].shape == ()

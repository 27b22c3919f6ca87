"""Formats of extracted networks: each gives the same logits, and nothing else is ever kept."""

import dataclasses
import errno
import functools
import json
import os
import pathlib
import pickle
import re
import shutil
import struct
from collections.abc import Callable
from typing import Any

import flax
import jax
import numpy as np
import pytest
import tiny_space

from supernet_jax.elastic import choices, shared_params
from supernet_jax.errors import UserError
from supernet_jax.networks import extract, manifest, network, network_folder
from supernet_jax.networks.formats import stablehlo, table
from supernet_jax.networks.formats.format import Export, Format
from supernet_jax.nn import blocks, resize
from supernet_jax.nn.blocks import BLOCKS
from supernet_jax.runtime import native
from supernet_jax.storage import checkpoint, safetensors_file, typed_json
from supernet_jax.tasks import ImageClassification

TOLERANCE = 1e-5  # float32 sums in another order
# PyTorch is no dependency; `test_export_torch.py` says so where it is not installed.
THERE = [format for format in table.FORMATS if not table.missing_packages(format)]
NAMES = tuple(format.name for format in THERE)
PROGRAMS = tuple(format.name for format in THERE if format.program)
SIZE = 10  # pixels of the images; the network works on 6
SPACE = tiny_space.tiny()
ARCH = choices.smallest(SPACE.menu)
MEAN, STD = (0.5, 0.25), (0.3, 0.2)


def filled(shapes: Any, seed: int, low: float = -0.5) -> Any:
    """Random arrays; nothing is zero, so that no part of a network hides."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.uniform(low, low + 1.0, s.shape).astype(np.float32), shapes)


def pixels(count: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 2), np.uint8)


def normalised(images: np.ndarray) -> np.ndarray:
    return ((images / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)


@functools.cache
def taken() -> tuple[Any, Any, dict[str, Any]]:
    """Module, variables and description."""
    params = filled(
        jax.eval_shape(functools.partial(shared_params.init, SPACE), jax.random.key(0)), 0
    )
    stats = filled(jax.eval_shape(functools.partial(shared_params.zero_stats, SPACE)), 1, 0.5)
    module, variables = extract.extract(SPACE, params, ARCH, stats)
    description = extract.describe(
        SPACE,
        ARCH,
        module,
        variables,
        mean=MEAN,
        std=STD,
        accuracy={"test": 0.5},
        calibration=(2, 64),
        source={"run": "runs/tiny", "step": 7},
        proof=0.0,
        proof_images=3,
    )
    return module, variables, description


@functools.cache
def expected(count: int) -> np.ndarray:
    """Logits of the Flax network."""
    module, variables, _ = taken()
    return network.flax_runner(module, variables)(normalised(pixels(count)))


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def chosen(*names: str, **settings: Any) -> tuple[Format, ...]:
    return table.chosen(names, **{"pixels": False, "size": None, **settings})


def written(folder: pathlib.Path, given: tuple[Format, ...], *, raw: bool = False) -> pathlib.Path:
    module, variables, description = taken()
    export = Export(module, variables, description, (SIZE, SIZE), raw)
    write = table.writer(given, export, table.fed(pixels(3), export))
    card = table.card(given)
    network_folder.save(folder, module, variables, description=description, write=write, card=card)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A network in every format; not to be changed."""
    return written(tmp_path_factory.mktemp("networks") / "all", chosen(*NAMES))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A network as programs that take pixels; not to be changed."""
    folder = tmp_path_factory.mktemp("networks") / "raw"
    return written(folder, chosen(*PROGRAMS, pixels=True), raw=True)


@pytest.fixture
def weights(folder: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the network with `model.safetensors` alone."""
    (tmp_path / "copy").mkdir()
    for name in ("network.json", network_folder.TENSORS):
        shutil.copy(folder / name, tmp_path / "copy" / name)
    return tmp_path / "copy"


def format_of(name: str) -> Format:
    return next(format for format in table.FORMATS if format.name == name)


# --- what is written gives the same logits -----------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_with_any_batch_size(folder: pathlib.Path, name: str) -> None:
    run = table.load(folder, name)
    for count in (1, 5):
        logits = run(normalised(pixels(count)))
        assert isinstance(logits, np.ndarray) and logits.dtype == np.float32
        assert logits.shape == (count, 5)
        assert difference(logits, expected(count)) <= TOLERANCE


@pytest.mark.parametrize("name", PROGRAMS)
def test_pixels_go_in_as_they_are(raw: pathlib.Path, name: str) -> None:
    run = table.load(raw, name)
    for count in (1, 4):
        assert difference(run(pixels(count)), expected(count)) <= TOLERANCE
    recorded = manifest.read_description(raw)["formats"][name]
    assert recorded["pixels"] and recorded["size"] == [SIZE, SIZE]


def test_what_was_proven_is_recorded(folder: pathlib.Path) -> None:
    description = manifest.read_description(folder)
    assert list(description["formats"]) == list(NAMES)
    for name, one in description["formats"].items():
        assert 0 <= one["difference"] <= TOLERANCE and one["images"] == 3
        assert (one["size"], one["pixels"]) == ([SIZE, SIZE], False)
        assert f"| same as {name} | logits within" in (folder / "README.md").read_text()
    held = {file.split("/")[0] for one in description["formats"].values() for file in one["files"]}
    assert held | {"README.md", "network.json", "weights"} == {p.name for p in folder.iterdir()}


def test_safetensors_hold_the_variables_to_the_bit(weights: pathlib.Path) -> None:
    module, variables, _ = taken()
    arrays = safetensors_file.read(weights / network_folder.TENSORS)
    own = flax.traverse_util.flatten_dict(variables, sep="/")
    assert set(arrays) == set(own) and "params/stem/conv/kernel" in arrays
    for name, array in own.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    back, loaded = network_folder.load(weights)
    assert back == module
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))


def test_every_snippet_of_the_card_runs(folder: pathlib.Path, raw: pathlib.Path) -> None:
    seen = []
    for path in (folder, raw):
        card = (path / "README.md").read_text()
        own: dict[str, Any] = {"given": pixels(1)}
        for snippet in re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL):
            exec(re.sub(r"np\.zeros\(.*?uint8\)", "given", snippet), own)
            if "logits" in snippet:
                assert difference(np.asarray(own.pop("logits")), expected(1)) <= TOLERANCE
                seen.append(snippet)
    assert len(seen) == 1 + 2 * len(PROGRAMS)


def test_kernels_of_this_machine_stay_out(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, variables, description = taken()
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(native, "_load", lambda: True)
    images = np.zeros((1, SIZE, SIZE, 2), np.float32)
    assert native.takes_norm(images)
    stablehlo.write(tmp_path, Export(module, variables, description, (SIZE, SIZE), False))
    assert b"supernet_norm" not in (tmp_path / stablehlo.NAME).read_bytes()
    assert native.takes_norm(images)


# --- nothing is kept that is not the same ------------------------------------------------------


def wrong(change: Callable[[np.ndarray], np.ndarray]) -> Format:
    """A format whose runtime gives other logits."""

    def write(folder: pathlib.Path, export: Export) -> None:
        (folder / "model.wrong").write_text("something")

    def load(folder: pathlib.Path) -> Any:
        module, variables, _ = taken()
        return lambda images: change(network.flax_runner(module, variables)(images))

    return Format("wrong", write, load)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x * np.float32(1 + 1e-4), r"as wrong is not the same: .* allowed is 1e-05"),
        (lambda x: x * np.nan, "as wrong is not the same: .* differ by nan"),
        (lambda x: x[:, :4], r"gives logits of shape \[3, 4\], but must give \[3, 5\]"),
        (lambda x: x[:1], r"gives logits of shape \[1, 5\]"),
    ],
)
def test_a_format_that_is_not_the_same(
    tmp_path: pathlib.Path, change: Callable[..., Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        written(tmp_path / "net", (format_of("safetensors"), wrong(change)))
    assert list(tmp_path.iterdir()) == []


# The other programs are written through the same door.
@pytest.mark.parametrize(
    "name", ["orbax", "safetensors", "network.json", "README.md", *({"torch"} & set(NAMES))]
)
def test_a_full_disk_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    of_format = {
        "orbax": "files.json",
        "safetensors": network_folder.TENSORS,
        "torch": "torch/.model",
    }
    full, given = of_format.get(name, name), chosen(name if name in NAMES else "safetensors")
    sync = os.fsync

    def sync_or_refuse(number: int) -> None:
        if full in os.readlink(f"/proc/self/fd/{number}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(number)

    if name == "orbax":  # which writes by itself, and says so by a system's error of its own

        def write_tree(folder: Any, tree: Any) -> None:
            (folder / "d").mkdir(parents=True)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoint, "write_tree", write_tree)
    monkeypatch.setattr(os, "fsync", sync_or_refuse)
    with pytest.raises(UserError, match=r"cannot write .*No space left.*start the same command"):
        written(tmp_path / "net", given)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    written(tmp_path / "net", given)  # and it goes on


NASTY = ("Übung", "b\udcfcro", '"; import os #', "a|b\n`c`", "日本")


def test_names_of_any_letters(tmp_path: pathlib.Path) -> None:
    module, variables, description = taken()
    source = {"run": "runs/b\udcfcro", "data": "folder:Übung"}
    named = {**description, "classes": list(NASTY), "source": source, "space": "Übung \udcfc"}
    described = typed_json.parse(manifest.Description, named, "")
    named["sha256"] = network_folder.digest(described, variables)
    export = Export(module, variables, named, (SIZE, SIZE), False)
    given = chosen(*(name for name in NAMES if name in ("safetensors", "onnx", "torch")))
    write = table.writer(given, export, table.fed(pixels(3), export))
    for i, folder in enumerate(("Übung", "b\udcfcro", 'quo"te', "back\\slash", "it's")):
        path = tmp_path / folder
        card = table.card(given)
        if i:  # once is enough to see that all formats can
            shutil.copytree(tmp_path / "Übung", path)
            (path / "README.md").write_text(card(named, folder=str(path)), "utf-8", "replace")
        else:
            network_folder.save(path, module, variables, description=named, write=write, card=card)
        assert tuple(manifest.read_description(path)["classes"]) == NASTY
        snippets = re.findall(
            r"```python\n(.*?)```",
            card(manifest.read_description(path), folder=str(path)),
            flags=re.DOTALL,
        )
        own: dict[str, Any] = {"given": pixels(1)}
        for snippet in snippets:
            exec(re.sub(r"np\.zeros\(.*?uint8\)", "given", snippet), own)
        assert difference(np.asarray(own["logits"]), expected(1)) <= TOLERANCE
    text = (tmp_path / "Übung" / "README.md").read_text("utf-8")
    assert "Übung" in text and "b?ro" in text
    with pytest.raises(UserError, match="is not UTF-8 in this locale, which weights in Orbax"):
        written(tmp_path / "\udcfc", chosen("orbax"))
    assert not (tmp_path / "\udcfc").exists()


def test_a_topology_that_needs_the_batch_size(tmp_path: pathlib.Path) -> None:
    module, variables, description = taken()

    def forward(run: Any, x: Any) -> Any:
        for block in module.blocks:
            x = run(block.name, x)
        return sum(x[i : i + 1] for i in range(x.shape[0]))

    export = Export(module.clone(forward=forward), variables, description, (SIZE, SIZE), False)
    with pytest.raises(UserError, match=r"cannot be written as stablehlo .*batch of any size"):
        stablehlo.write(tmp_path, export)
    assert list(tmp_path.iterdir()) == []


CHOICES: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "none": ((), {}, "--format names no format; allowed: orbax, safetensors"),
    "unknown": (("saftensors",), {}, "is 'saftensors', allowed: .* did you mean safetensors"),
    "pixels in weights": (("orbax",), {"pixels": True}, "orbax holds weights alone; leave --pix"),
    "pixels in some": (("stablehlo", "safetensors"), {"pixels": True}, "safetensors holds weights"),
    "size of weights": (("safetensors",), {"size": 8}, "--input-size is of the network's program"),
    "no size": (("stablehlo",), {"size": 0}, "--input-size is 0, allowed are 1 to 4096"),
    "huge": (("stablehlo",), {"size": 9999}, "--input-size is 9999, allowed are 1 to 4096"),
    "package": (("other",), {}, r"other needs packages .*: .* -m pip install 'not-there-1>=1\.0'$"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_formats_that_cannot_be(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names, settings, message = CHOICES[case]
    other = Format("other", stablehlo.write, stablehlo.load, ("numpy>=1", "not-there-1>=1.0"))
    monkeypatch.setattr(table, "FORMATS", (*table.FORMATS, other))
    with pytest.raises(UserError, match=message):
        chosen(*names, **settings)


# Which of the library's blocks a format that is written block by block cannot write yet.
LACKS: dict[str, set[str]] = {
    "torch": {
        *("AttentionBlock", "AttentiveEmbedding", "ConvPatchEmbedding", "FactoredLayer"),
        *("FrameLayer", "LowRankTransformerBlock", "PooledLogits", "Pooler", "SERes2Block"),
        *("ScaledEmbedding", "SizedPatchEmbedding", "SpatialReduction", "SpeakerCosines"),
        *("TranslationDecoder", "TranslationEncoder"),
        # of cells and of searched chains
        *("AveragePool3", "CellHead", "CellStem", "DilatedConv", "FBNetBlock"),
        *("FactorisedReduction", "MaxPool3", "MeanHead", "MeanPool3", "Parted", "Reduction"),
        *("ReluConv", "ReluHead", "ReluPointwise", "ReluStem", "SeparableConv", "Skip"),
        *("ShuffleBlock", "ShuffleXception", "StridedZero", "Zero"),
    }
}


def test_which_blocks_a_format_lacks() -> None:
    by_block = {f.name: f.blocks for f in table.FORMATS if f.blocks is not None}
    assert {name: set(BLOCKS) - known for name, known in by_block.items()} == LACKS
    assert set().union(*by_block.values()) <= set(BLOCKS)


def test_a_format_that_lacks_a_block() -> None:
    module, _, _ = taken()
    kinds = {block.module.__name__ for block in module.blocks}
    assert kinds == {"Stem", "MBConv", "Head"}
    poor = Format("poor", stablehlo.write, stablehlo.load, blocks=frozenset(kinds - {"Head"}))
    with pytest.raises(UserError, match=r"'head', which is a Head, but only of MBConv, Stem; the "):
        table.check_blocks(poor, module)
    table.check_blocks(poor._replace(blocks=frozenset(kinds)), module)


def test_a_block_is_named_once(weights: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(dataclasses.is_dataclass(blocks.spec_type(kind)) for kind in BLOCKS.values())
    module, _, _ = taken()
    assert network_folder.load(weights)[0] == module
    fewer = {name: kind for name, kind in BLOCKS.items() if name != "MBConv"}
    monkeypatch.setattr(network_folder, "BLOCKS", fewer)
    with pytest.raises(UserError, match=r"type is 'MBConv', but the library has .*Head, Stem, "):
        network_folder.load(weights)


def test_formats_count_once() -> None:
    assert [f.name for f in chosen("safetensors", "orbax", "safetensors")] == [
        "safetensors",
        "orbax",
    ]


# --- broken files ------------------------------------------------------------------------------


def packed(header: Any, data: bytes = b"\0" * 4) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}


TWICE = json.dumps({"a": entry()})[:-1] + ',"a":' + json.dumps(entry(data_offsets=[4, 8])) + "}"
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not a whole safetensors file"),
    "short": (b"\1\0\0", "is not a whole safetensors file"),
    "a pickle": (pickle.dumps({"a": np.ones(3)}), "is not a safetensors file but a Python pickle"),
    "header of 2**63 bytes": (struct.pack("<Q", 2**63) + b"{}", "is not a whole safetensors file"),
    "header cut": (packed({"a": entry()})[:30], "is not a whole safetensors file"),
    "no JSON": (packed(b"{nothing}"), "is not a whole safetensors file"),
    "a list": (packed([1, 2]), "is not a whole safetensors file"),
    "deep": (packed(b"[" * 5000), "is not a whole safetensors file"),
    "numbers cut": (packed({"a": entry()}, b"\0\0"), "is not a whole safetensors file"),
    "numbers left": (packed({"a": entry()}, b"\0" * 8), "is not a whole safetensors file"),
    "a petabyte": (packed({"a": entry(shape=[2**50])}), "is not a whole safetensors file"),
    "overflow": (packed({"a": entry(shape=[2**40, 2**40])}), "is not a whole safetensors file"),
    "negative": (packed({"a": entry(shape=[-1])}), "is not a whole safetensors file"),
    "overlap": (packed({"a": entry(), "b": entry()}), "is not a whole safetensors file"),
    "twice": (packed(TWICE.encode(), b"\0" * 8), "is not a whole safetensors file"),
    "dtype": (packed({"a": entry(dtype="F8_E4M3", shape=[4])}), "a is of type 'F8_E4M3', allowed"),
    "no dtype": (packed({"a": entry(dtype="os.system")}), "unknown variant `os.system`"),
    "path up": (packed({"../../etc/a": entry()}), r"has an array named '\.\./\.\./etc/a'; names"),
    "absolute": (packed({"/etc/a": entry()}), "has an array named '/etc/a'"),
    "backslash": (packed({"a\\b": entry()}), r"has an array named 'a\\\\b'"),
    "null": (packed({"a\0": entry()}), r"has an array named 'a\\x00'"),
    "no name": (packed({"": entry()}), "has an array named ''"),
    "other names": (
        packed({"a": entry()}),
        r"a is float32\[1\], but must be left out|does not fit",
    ),
    "group and array": (
        packed({"a": entry(), "a/b": entry(data_offsets=[4, 8])}, b"\0" * 8),
        "'a/b' stands for an array and for a group of arrays",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_safetensors(weights: pathlib.Path, case: str) -> None:
    content, message = BROKEN[case]
    (weights / network_folder.TENSORS).write_bytes(content)
    with pytest.raises(UserError, match=message):
        network_folder.load(weights)
    assert sorted(p.name for p in weights.iterdir()) == [network_folder.TENSORS, "network.json"]
    assert [p.name for p in weights.parent.iterdir()] == ["copy"]


def test_weights_that_are_not_numbers(weights: pathlib.Path) -> None:
    _, variables, description = taken()
    for bad in (np.nan, np.inf):
        changed = jax.tree.map(np.copy, variables)
        changed["params"]["stem"]["conv"]["kernel"][0, 0, 0, 0] = bad
        flat = flax.traverse_util.flatten_dict(changed, sep="/")
        safetensors_file.write(weights / network_folder.TENSORS, flat)
        with pytest.raises(UserError, match="do not match its sha256"):
            network_folder.load(weights)
        described = typed_json.parse(manifest.Description, description, "")
        value = {**description, "sha256": network_folder.digest(described, changed)}
        (weights / "network.json").write_text(json.dumps(value))
        with pytest.raises(UserError, match="numbers of params/stem/conv/kernel are not finite"):
            network_folder.load(weights)


def test_a_file_that_is_none(weights: pathlib.Path) -> None:
    (weights / network_folder.TENSORS).unlink()
    (weights / network_folder.TENSORS).mkdir()
    with pytest.raises(UserError, match=r"model\.safetensors is a folder, not a safetensors file"):
        network_folder.load(weights)


def test_a_folder_of_the_first_version(weights: pathlib.Path) -> None:
    path = weights / "network.json"
    value = json.loads(path.read_text())
    del value["formats"]
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match="missing formats"):
        network_folder.load(weights)
    path.write_text(json.dumps({**value, "version": 1}))
    assert network_folder.load(weights)[0] == taken()[0]
    assert manifest.read_description(weights)["formats"] == {}


def test_programs_alone_are_no_flax_network(raw: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"as stablehlo.* only.* --format orbax or safetensors"):
        network_folder.load(raw)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_was_changed(
    folder: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    files = manifest.read_description(folder)["formats"][name]["files"]
    shutil.copytree(folder, tmp_path / "copy")
    for file in files:
        path = tmp_path / "copy" / file
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(UserError, match="has been changed since it was written"):
            table.load(tmp_path / "copy", name)
        path.unlink()
        with pytest.raises(UserError, match=f"has no file {re.escape(file)}"):
            table.load(tmp_path / "copy", name)
        path.write_bytes(whole)
    table.load(tmp_path / "copy", name)


def test_formats_that_are_not_there(raw: pathlib.Path, weights: pathlib.Path) -> None:
    with pytest.raises(UserError, match="does not hold the network as 'orbax', only as stablehlo"):
        table.load(raw, "orbax")
    value = json.loads((weights / "network.json").read_text())
    for file in ("../copy/network.json", "/etc/passwd", "", "model.stablehlo/x"):
        value["formats"]["stablehlo"]["files"] = {file: "0"}
        (weights / "network.json").write_text(json.dumps(value))
        with pytest.raises(UserError, match=r"has no file |has been changed"):
            table.load(weights, "stablehlo")


def test_no_program_of_jax(weights: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*model\.stablehlo"):
        stablehlo.load(weights)
    for content in (b"", b"nothing of the kind", pickle.dumps({"a": 1})):
        (weights / stablehlo.NAME).write_bytes(content)
        told = r"is not a program of jax\.export" if content else "is empty, so it was cut short"
        with pytest.raises(UserError, match=told):
            stablehlo.load(weights)


# --- any change of any byte --------------------------------------------------------------------

MUTATIONS = 2000


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The quickest network to look at: one block."""
    from supernet_jax.nn.blocks.mobilenet import Head, HeadSpec

    _, _, description = taken()
    spec = {"c_in": 2, "middle": 3, "c_out": 4, "classes": 5, "dropout": 0.1, "dropout_width": 8}
    module = network.Network(
        (network.Block("head", Head, HeadSpec(**spec)),), 6, ImageClassification(3, 5)
    )
    x = jax.ShapeDtypeStruct((1, 6, 6, 2), np.float32)
    made = jax.eval_shape(module.init, jax.random.key(0), x)
    variables = {"params": filled(made["params"], 0), "stats": filled(made["moments"], 1, 0.5)}
    block = {"name": "head", "type": "Head", "spec": spec, "spec_type": None}
    value = {**description, "blocks": [block], "formats": {}}
    described = typed_json.parse(manifest.Description, value, "")
    value["sha256"] = network_folder.digest(described, variables)
    folder = tmp_path_factory.mktemp("smallest")
    (folder / "network.json").write_text(json.dumps(value))
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    safetensors_file.write(folder / network_folder.TENSORS, flat)
    return folder


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Content with one to three changes: bits, bytes, cuts, repeats, digits, swapped parts."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not changed:
            break
        i, j = sorted(int(n) for n in rng.integers(0, len(changed), 2))
        kind = rng.integers(7)
        if kind == 0:
            changed[i] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[i] = int(rng.integers(256))
        elif kind == 2:
            del changed[i:]
        elif kind == 3:
            del changed[i : i + int(rng.integers(1, 9))]
        elif kind == 4:
            changed[i:i] = changed[j : j + 8]
        elif kind == 5:
            digits = [k for k, byte in enumerate(changed) if 48 <= byte <= 57]
            if digits:
                changed[digits[int(rng.integers(len(digits)))]] = int(rng.integers(48, 58))
        else:
            changed[i], changed[j] = changed[j], changed[i]
    return bytes(changed)


def test_no_change_goes_unnoticed(smallest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    module, variables = network_folder.load(smallest)
    whole = {
        name: (smallest / name).read_bytes() for name in ("network.json", network_folder.TENSORS)
    }
    known = json.loads(whole["network.json"])
    refused = accepted = 0
    for i in range(MUTATIONS):
        # Two thirds in the weights, where a header of some hundred bytes is most of the file.
        target = "network.json" if i % 3 == 0 else network_folder.TENSORS
        for name, content in whole.items():
            change = mutated(content, rng) if name == target else content
            (tmp_path / name).write_bytes(change)
        try:
            back, loaded = network_folder.load(tmp_path)
        except UserError:
            refused += 1
            continue
        accepted += 1
        assert back == module, i
        jax.tree.map(
            functools.partial(np.testing.assert_array_equal, strict=True), loaded, variables
        )
        now = manifest.read_description(tmp_path)
        assert all(now[key] == known[key] for key in ("mean", "std", "classes", "resolution")), i
    assert refused > MUTATIONS / 2 and accepted > 10  # a figure in the description may change
    assert sorted(p.name for p in tmp_path.iterdir()) == [network_folder.TENSORS, "network.json"]


def test_resizing_what_is_fed() -> None:
    module, variables, description = taken()
    export = Export(module, variables, description, (7, 7), True)
    images = table.fed(pixels(2), export)
    assert images.shape == (2, 7, 7, 2) and images.dtype == np.uint8
    smooth = np.asarray(resize.resize_bicubic(pixels(2).astype(np.float32), 7))
    assert np.max(np.abs(images - np.clip(smooth, 0, 255))) <= 0.5
    floats = table.fed(pixels(2), export._replace(pixels=False))
    np.testing.assert_allclose(floats, normalised(images), rtol=1e-5, atol=1e-6)

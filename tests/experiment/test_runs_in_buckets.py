"""A run in a bucket is as one on a disk: trained, killed, searched, taken out, reported."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import bucket_server
import image_files
import jax
import numpy as np
import pytest
import tiny_run
from bucket_server import Server
from tiny_run import ARCH, CONFIG, supernet

import supernet_jax as sj
from supernet_jax.data import load as load_data
from supernet_jax.errors import UserError
from supernet_jax.experiment import config
from supernet_jax.storage import buckets, checkpoint, files
from supernet_jax.storage.buckets import Bucket

OPTIONS = ("--config", CONFIG)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with bucket_server.used("gs") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield server


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny_run.trained(tmp_path_factory)


def copied(server: Server, folder: pathlib.Path, name: str) -> str:
    """A local folder, in the bucket."""
    for path in folder.rglob("*"):
        if path.is_file():
            buckets.write(
                Bucket(f"{server.url}/{name}") / path.relative_to(folder), path.read_bytes()
            )
    return f"{server.url}/{name}"


def test_killed_and_started_again(server: Server, local: pathlib.Path) -> None:
    """Bitwise the same as what was never killed, on a disk."""
    settings, _ = config.load_file(CONFIG)
    run = f"{server.url}/runs/killed"
    server.fail = lambda method, name: 403 if "checkpoints/30" in name else None
    with pytest.raises(UserError, match=r"refuses gs://.*checkpoints/30"):
        sj.train(settings, run)
    server.fail = lambda method, name: None
    assert checkpoint.steps(f"{run}/checkpoints") == (15,)
    sj.train(settings, run)
    assert checkpoint.steps(f"{run}/checkpoints") == (15, 30)
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        checkpoint.tree_shapes(local / "checkpoints" / "30" / "state"),
    )
    here, there = (
        checkpoint.restore(f, wanted) for f in (local / "checkpoints", f"{run}/checkpoints")
    )
    leaves = list(zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True))
    assert len(leaves) > 10 and all(np.array_equal(a, b) for a, b in leaves)
    assert files.read_bytes(Bucket(run) / "metrics.jsonl") == (local / "metrics.jsonl").read_bytes()
    assert files.read_json(Bucket(run) / "writer.lock") == {}
    assert files.read_json(Bucket(run) / "config.json") == json.loads(
        (local / "config.json").read_text("utf-8")
    )
    with pytest.raises(UserError, match=r"gs://.* already holds a run of another configuration"):
        sj.train(config.Config(**{**vars(settings), "train": sj.Train(steps=31, seed=1)}), run)


def test_what_is_done_with_a_run(
    server: Server, local: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(server, local, "runs/used")
    opened = sj.open_run(run, CONFIG)
    assert str(opened.folder) == run and opened.step == 30
    own = sj.open_run(local, CONFIG)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, opened.params, own.params)))
    said = supernet(capsys, "search", run, *OPTIONS, "--evaluations", 12)
    assert said.status == 0 and f"wrote {run}/search.json and {run}/front.png" in said.out
    before = server.objects["runs/used/evaluations.jsonl"]
    assert supernet(capsys, "search", run, *OPTIONS, "--evaluations", 12).status == 0
    assert server.objects["runs/used/evaluations.jsonl"] == before  # nothing is computed twice
    out = f"{server.url}/out.json"
    said = supernet(capsys, "evaluate", run, *OPTIONS, "--front", "--race", "--out", out)
    assert said.status == 0 and len(files.read_json(Bucket(out))) > 0
    assert supernet(capsys, "evaluate", run, *OPTIONS, "--front", "--out", out).status == 2
    network = f"{run}/networks/one"
    made = supernet(capsys, "extract", run, *OPTIONS, "--arch", json.dumps(ARCH), "--out", network)
    assert made.status == 0, made.err
    module, variables = sj.load(network, space_file=CONFIG)
    sj.extract(own, ARCH, local.parent / "extracted_for_buckets")
    _, here = sj.load(local.parent / "extracted_for_buckets", space_file=CONFIG)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, variables, here)))
    assert module.apply(variables, np.zeros((2, 8, 8, 1), np.float32)).shape == (2, 10)
    again = supernet(capsys, "extract", run, *OPTIONS, "--arch", json.dumps(ARCH), "--out", network)
    assert again.status == 2 and "exists already" in again.err
    for _ in range(2):
        said = supernet(capsys, "report", run)
        assert said.status == 0, said.err
    report = files.read_text(Bucket(run) / "report.html")
    assert "step 30 of 30" in report and "networks/one" in report and "12 subnets scored" in report
    said = supernet(capsys, "info", CONFIG, "--archs", f"{run}/search.json")
    assert said.status == 0, said.err


def test_a_run_that_may_only_be_read(
    server: Server,
    local: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: pathlib.Path,
) -> None:
    run = copied(server, local, "runs/read_only")
    server.fail = lambda method, name: 403 if method in ("POST", "DELETE") else None
    try:
        wanted = ("evaluate", run, *OPTIONS, "--archs", json.dumps(ARCH))
        said = supernet(capsys, *wanted)
        assert said.status == 2 and f"cannot write to {run}, where results are kept" in said.err
        said = supernet(capsys, *wanted, "--out", tmp_path / "e.json")
        assert said.status == 0 and len(json.loads((tmp_path / "e.json").read_text("utf-8"))) == 1
        assert supernet(capsys, "report", run, "--out", tmp_path / "r.html").status == 0
        said = supernet(capsys, "train", CONFIG, "--out", run)
        assert said.status == 2 and "with the credentials of this machine" in said.err
    finally:
        server.fail = lambda method, name: None


def load(name: str, data_dir: str | None = None) -> Any:
    return load_data(name, data_dir=data_dir, held_out=0.5, seed=0)


def test_data(server: Server, tmp_path: pathlib.Path) -> None:
    pixels = image_files.noise(1, 12, 4, 4, 3)
    pairs = [(image_files.png(image), i % 2) for i, image in enumerate(pixels)]
    image_files.tfds_data(tmp_path / "tfds", {"train": pairs, "test": pairs[:4]})
    image_files.folder(tmp_path / "photos")
    arrays = {"x_train": pixels, "y_train": np.arange(12) % 2}
    np.savez(tmp_path / "a.npz", **arrays, x_test=pixels[:4], y_test=arrays["y_train"][:4])
    base = copied(server, tmp_path, "data")
    for name, data_dir in (
        ("tfds:tiny", "tfds"),
        ("folder:photos", ""),
        ("npz:a.npz", ""),
    ):
        here, there = (load(name, data_dir=f"{f}/{data_dir}") for f in (tmp_path, base))
        assert np.array_equal(here.train.images, there.train.images), name
        assert here.fingerprint == there.fingerprint, name
    assert load(f"npz:{base}/a.npz").fingerprint == load(f"npz:{tmp_path}/a.npz").fingerprint
    with pytest.raises(UserError, match=r"there is no file or folder gs://shelf/data/tfds/other"):
        load("tfds:other", data_dir=f"{base}/tfds")
    written = sj.data.arrays(pixels, arrays["y_train"], folder=f"{base}/arrays")
    assert written.name.startswith(f"npz:{base}/arrays/")
    assert np.array_equal(load(written.name).train.images.shape[1:], (4, 4, 3))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", CONFIG, "--out", "gs:/shelf/x"), "has one slash; write gs://shelf/x"),
        (("train", CONFIG, "--out=ftp://host/x"), "neither a local path nor in a bucket"),
        (("train", CONFIG, "--out", "gs://"), "names no bucket"),
        (("train", CONFIG, "--out", "gs://none/x"), "there is no bucket gs://none; make it"),
        (("train", CONFIG, "--out", "gs://shelf/bad/object"), "which is a file, not the folder"),
        (("train", CONFIG, "--out", "gs://shelf/bad"), "holds something that is not a run"),
        (("train", "gs://shelf/c.py", "--out", "x"), "a config file is run; copy it to this"),
        (("search", "gs://shelf/nothing"), "there is no run folder gs://shelf/nothing"),
        (("search", "gs://shelf/bad"), "is not a run folder: it has no config.json"),
        (("report", "gs://shelf/bad/object"), "there is no run folder gs://shelf/bad/object"),
        (("extract", "gs://shelf/no", "--arch", "largest", "--out", "x"), "there is no run folder"),
    ],
)
def test_bad_input(
    server: Server,
    arguments: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    files.write_text(Bucket("gs://shelf/bad/object"), "")
    heard = supernet(capsys, *arguments)
    lines = [line for line in heard.err.splitlines() if line.startswith("supernet: ")]
    assert heard.status == 2 and len(lines) == 1 and said in lines[0], heard
    assert list(tmp_path.iterdir()) == []  # no local folder of that name

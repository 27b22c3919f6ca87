"""Networks on a hub: what is sent, what comes back, and what is refused in one line."""

import contextlib
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import fake_hub
import huggingface_hub
import numpy as np
import pytest
import tiny_config
import tiny_run
from conftest import ROOT
from fake_hub import Hub
from published import network, same, write
from tiny_run import CONFIG, supernet

import supernet_jax as sj
from supernet_jax.errors import UserError
from supernet_jax.experiment.publish import Published
from supernet_jax.networks import network_folder
from supernet_jax.storage import hub as hub_storage

# How the library `huggingface_hub` calls its own HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
ADDRESS = "hf:me/net"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: pathlib.Path) -> Iterator[Hub]:
    with fake_hub.used(tmp_path / "cache") as served:
        yield served


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two networks. Leave them as they are."""
    folder = tmp_path_factory.mktemp("networks")
    for name in ("small", "large"):
        write(folder / name, name)
    return folder


def publish(folder: pathlib.Path, **given: Any) -> Published:
    return sj.publish(folder, **{"repo": "me/net", "license": "mit", **given})


def table(hub: Hub) -> list[dict[str, Any]]:
    return json.loads(hub.files("me/net")["front.json"])["networks"]


# --- what comes back -------------------------------------------------------------------------


def test_a_network_comes_back(hub: Hub, networks: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = publish(networks / "small")
    assert set(done.files) == {"README.md", "network.json", WEIGHTS} and done.address == ADDRESS
    assert set(done.sent.new) == set(done.files) and not done.sent.kept
    held = hub.files("me/net")
    assert {name: len(held[name]) for name in done.files} == done.files
    hub.requests.clear()
    assert same(sj.load(ADDRESS), "small")
    assert hub.fetched() == [WEIGHTS, "network.json"]
    assert same(sj.load(f"{ADDRESS}@{done.sent.commit}"), "small")
    assert not hub.fetched()[2:]  # which are in the cache
    with pytest.raises(UserError, match="holds one network, and no table of several"):
        sj.load(ADDRESS, arch="front:0")


def test_nothing_of_this_machine_is_sent(hub: Hub, networks: pathlib.Path) -> None:
    publish(networks)
    for name, content in hub.files("me/net").items():
        assert b"jane" not in content and str(networks).encode() not in content, name
    described = json.loads(hub.files("me/net")["small/network.json"])
    assert described["source"] == {"run": "tiny", "checkpoint": 7, "data": "npz:a.npz"}
    assert described["sha256"] == network("small")[2]["sha256"]


def test_one_network_of_a_front(hub: Hub, networks: pathlib.Path) -> None:
    publish(networks)
    rows = table(hub)
    assert [one["folder"] for one in rows] == ["small", "large"]
    assert [one["macs"] for one in rows] == sorted(one["macs"] for one in rows)
    for arch in ("front:1", "large", rows[1]["arch"], json.dumps(rows[1]["arch"])):
        hub.requests.clear()
        assert same(sj.load(ADDRESS, arch=arch), "large")
        assert set(hub.fetched()) <= {"front.json", f"large/{WEIGHTS}", "large/network.json"}
    assert same(sj.load(f"{ADDRESS}/small"), "small")
    for arch, said in ((None, "no arch was given"), ("front:2", "arch is 'front:2'"), (7, "is 7")):
        with pytest.raises(
            UserError, match=rf"{said}.*front:0 \(\d+,\d+ MACs, test 0.5\), front:1"
        ):
            sj.load(ADDRESS, arch=arch)


def test_the_files_may_be_kept_and_sent_later(
    hub: Hub, networks: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    kept = tmp_path / "kept"
    assert publish(networks, out=kept, dry_run=True).sent is None and not hub.requests
    assert same(sj.load(kept, arch="front:0"), "small")
    card = kept / "README.md"
    card.write_text(f"{card.read_text('utf-8')}\nWritten by me.\n", "utf-8")
    first = publish(kept, license=None)
    assert hub.files("me/net")["README.md"] == card.read_bytes()
    assert len(first.sent.new) == len(first.files) == 8
    again = publish(kept, license=None)
    assert again.files == first.files and again.sent.commit == first.sent.commit
    with pytest.raises(UserError, match=r"--license is apache-2.0, but .* says mit"):
        publish(kept, license="apache-2.0")
    with pytest.raises(UserError, match=r"exists already; .* supernet publish .* --repo me/net"):
        publish(networks, out=kept)


def test_programs_go_along(hub: Hub, tmp_path: pathlib.Path) -> None:
    write(tmp_path / "net", "small", "orbax", "stablehlo")
    assert "model.stablehlo" in publish(tmp_path / "net").files
    assert b"hf download me/net --local-dir net" in hub.files("me/net")["README.md"]
    assert b'open("net/model.stablehlo", "rb")' in hub.files("me/net")["README.md"]
    with pytest.raises(UserError, match=r"names onnx, but .* as orbax, stablehlo; extract it"):
        publish(tmp_path / "net", formats=["onnx"], replace=True)
    assert "model.stablehlo" not in publish(tmp_path / "net", formats=[], replace=True).files
    assert "model.stablehlo" not in hub.files("me/net")


# --- what is there already -------------------------------------------------------------------


def test_the_same_again_sends_nothing(hub: Hub, networks: pathlib.Path) -> None:
    first = publish(networks / "small")
    hub.requests.clear()
    again = publish(networks / "small")
    assert (
        again.sent == first.sent._replace(new=()) and len(hub.repositories["me/net"].commits) == 2
    )
    assert {method for method, _ in hub.requests} == {"GET"}


def test_other_content_is_replaced_only_when_asked(hub: Hub, networks: pathlib.Path) -> None:
    publish(networks)
    there = hub.repositories["me/net"]
    there.commit({**hub.files("me/net"), "LICENSE": b"mine"})
    with pytest.raises(UserError) as refused:
        publish(networks / "small")
    for said in ("README.md would be replaced", "and 4 more deleted", "LICENSE kept", "--replace"):
        assert said in str(refused.value)
    assert len(there.commits) == 3
    done = publish(networks / "small", replace=True)
    assert set(hub.files("me/net")) == {*done.files, "LICENSE", ".gitattributes"}
    assert (done.sent.kept, len(done.sent.deleted)) == (("LICENSE",), 7)
    assert same(sj.load(ADDRESS), "small")


def test_somebody_elses_model_is_not_mixed_with(hub: Hub, networks: pathlib.Path) -> None:
    hub.repositories["me/net"] = fake_hub.Repository(False, [])
    hub.repositories["me/net"].commit({"pytorch_model.bin": b"?"})
    with pytest.raises(UserError, match=r"holds something else already: .*pytorch_model.bin kept"):
        publish(networks / "small")


def test_a_private_one(hub: Hub, networks: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(networks / "small", private=True)
    assert hub.repositories["me/net"].private and same(sj.load(ADDRESS), "small")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(networks / "empty"))
    with pytest.raises(UserError, match="no repository me/net, or does not show it to you"):
        sj.load(ADDRESS)
    monkeypatch.undo()


def test_private_things_do_not_become_public(hub: Hub, networks: pathlib.Path) -> None:
    publish(networks / "small")
    with pytest.raises(UserError, match="is there and public, and --private asks"):
        publish(networks / "large", private=True, replace=True)
    assert len(hub.repositories["me/net"].commits) == 2


# --- cut short -------------------------------------------------------------------------------


def test_an_upload_that_was_cut_goes_on(hub: Hub, networks: pathlib.Path) -> None:
    hub.fail = lambda method, path: 0 if "/commit/" in path else None
    with pytest.raises(UserError, match=r"cannot be reached.*start the same command again"):
        publish(networks)
    assert len(hub.large) == 2 and set(hub.files("me/net")) == {".gitattributes"}
    hub.fail = lambda method, path: None
    hub.requests.clear()
    assert len(publish(networks).sent.new) == 8
    assert not [path for method, path in hub.requests if method == "PUT"]  # weights were there
    assert same(sj.load(ADDRESS, arch="large"), "large")


KILLED = """
import pathlib, sys
from supernet_jax.storage import hub
folder = pathlib.Path(sys.argv[1])
hub.send(folder, "me/net", private=False, replace=False, ours=lambda p: set(), message="all")
"""


def test_a_killed_upload_goes_on(hub: Hub, networks: pathlib.Path, tmp_path: pathlib.Path) -> None:
    publish(networks, out=tmp_path / "kept", dry_run=True)
    killed: list[int] = []

    def kill(method: str, path: str) -> None:
        if method == "PUT" and len(hub.large) == 1 and not killed:
            killed.append(child.pid)
            child.send_signal(signal.SIGKILL)

    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "kept")],
        env={
            **{"PATH": "", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            **{"HF_ENDPOINT": hub.url, "HF_TOKEN": fake_hub.TOKEN, "HF_HUB_DISABLE_XET": "1"},
        },
    )
    hub.fail = kill
    assert child.wait(timeout=120) == -signal.SIGKILL
    assert killed and set(hub.files("me/net")) == {".gitattributes"}
    hub.fail = lambda method, path: None
    assert len(publish(networks).sent.new) == 8
    assert same(sj.load(ADDRESS, arch="large"), "large")


def test_a_commit_of_somebody_else_meanwhile(hub: Hub, networks: pathlib.Path) -> None:
    def interfere(method: str, path: str) -> None:
        if "/preupload/" in path:
            hub.repositories["me/net"].commit({"README.md": b"theirs"})

    hub.fail = interfere
    with pytest.raises(UserError, match=r"changed by somebody else meanwhile \(412"):
        publish(networks / "small")
    assert hub.files("me/net") == {"README.md": b"theirs"}


# --- damaged ---------------------------------------------------------------------------------


def damaged(hub: Hub, name: str, *replaced: bytes) -> None:
    files = hub.files("me/net")
    content = files[name].replace(*replaced) if replaced else files[name][:-1] + b"\7"
    assert content != files[name]
    hub.repositories["me/net"].commit({**files, name: content})


def test_damaged_weights_are_noticed(hub: Hub, networks: pathlib.Path) -> None:
    publish(networks / "small")
    damaged(hub, WEIGHTS)
    with pytest.raises(UserError, match="do not match its sha256"):
        sj.load(ADDRESS)


def test_another_network_in_a_folder_is_noticed(hub: Hub, networks: pathlib.Path) -> None:
    publish(networks)
    files = hub.files("me/net")
    swapped = {f"small/{name}": files[f"large/{name}"] for name in (WEIGHTS, "network.json")}
    hub.repositories["me/net"].commit({**files, **swapped})
    with pytest.raises(UserError, match=r"small holds another network than front.json says"):
        sj.load(ADDRESS, arch="front:0")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"small"', b'"../small"', "names a folder '../small'"),
        (b'"small"', b'".."', r"names a folder '\.\.'"),
        (b'"small"', b'"/etc"', "names a folder '/etc'"),
        (b'"small"', b'"a\\\\b"', "names a folder"),
        (b'"supernet_jax front"', b'"another"', "has format 'another', not 'supernet_jax front'"),
        (b'"version": 1', b'"version": 9', "has version 9, this library reads 1"),
        (b'"macs"', b'"smacs"', "macs"),
        (b"{", b"", "JSON"),
    ],
)
def test_a_table_of_a_stranger(
    hub: Hub, networks: pathlib.Path, old: bytes, new: bytes, said: str
) -> None:
    publish(networks)
    damaged(hub, "front.json", old, new, 1)
    with pytest.raises(UserError, match=said):
        sj.load(ADDRESS, arch="front:0")


def test_a_repository_of_something_else(hub: Hub) -> None:
    hub.repositories["me/net"] = fake_hub.Repository(False, [])
    hub.repositories["me/net"].commit({"pytorch_model.bin": b"?"})
    with pytest.raises(UserError, match=r"has neither network.json nor front.json"):
        sj.load(ADDRESS)
    for revision in ("v2", "refs/pr/1"):
        said = f"no revision '{revision.partition('/')[0]}'.*; a branch with / .* by its commit"
        with pytest.raises(UserError, match=said):
            sj.load(f"{ADDRESS}@{revision}")


@pytest.mark.parametrize(
    "name", ["../escaped/dir/x", "../copy/x", "/escaped/x", "torch/../../x", "a\\x", "a\0x"]
)
def test_files_that_lead_out_of_a_folder(
    networks: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    """Nothing is made elsewhere, even if a name leads back to a file of the network."""
    copy = shutil.copytree(networks / "small", tmp_path / "in" / "copy")
    described = json.loads((copy / "network.json").read_text("utf-8"))
    digest = hashlib.sha256(b"x").hexdigest()
    described["formats"]["onnx"] = {**described["formats"]["orbax"], "files": {name: digest}}
    (copy / "network.json").write_text(json.dumps(described), "utf-8")
    (copy / "x").write_bytes(b"x")
    before = {*tmp_path.rglob("*")}
    with pytest.raises(UserError, match=r"formats.onnx names a file '.*has been changed"):
        publish(copy, out=tmp_path / "kept", dry_run=True)
    assert {*tmp_path.rglob("*")} == before


def test_damage_here_is_not_sent(hub: Hub, networks: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = shutil.copytree(networks / "small", tmp_path / "copy")
    described = json.loads((copy / "network.json").read_text("utf-8"))
    described["classes"][0] = "another"
    (copy / "network.json").write_text(json.dumps(described), "utf-8")
    with pytest.raises(UserError, match="do not match its sha256"):
        publish(copy)
    assert not hub.repositories and [*tmp_path.iterdir()] == [copy]


# --- runs, and the command line --------------------------------------------------------------


@pytest.fixture
def searched(tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the searched run, whose front has two networks, of which a cost is known."""
    run = shutil.copytree(tiny_run.searched(tmp_path_factory), tmp_path / "run")
    result = json.loads((run / "search.json").read_text())
    result["budgets"] += [{"cost": "energy", "unit": "mJ"}]
    result["front"] = [{**one, "energy": 0.5 + i} for i, one in enumerate(result["front"][:2])]
    (run / "search.json").write_text(json.dumps(result))
    return run


def test_the_front_of_a_run(
    hub: Hub, searched: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line; its blocks are the user's own, whose file stays here."""
    words = ("publish", searched, "--config", CONFIG, "--repo", "me/net", "--license", "mit")
    said = supernet(capsys, *words)
    assert said.status == 0 and 'sj.load("hf:me/net", arch="front:0")' in said.out, said.err
    front = json.loads((searched / "search.json").read_text())["front"]
    assert [one["arch"] for one in table(hub)] == [one["arch"] for one in front]
    assert [one["costs"] for one in table(hub)] == [{"mJ": 0.5}, {"mJ": 1.5}]
    assert b"| parameters | mJ | accuracy, held-out |" in hub.files("me/net")["README.md"]
    assert not [name for name in hub.files("me/net") if name.endswith(".py")]
    assert b"`tiny_config.py` (SHA-256" in hub.files("me/net")["README.md"]
    assert str(CONFIG.parent).encode() not in b"".join(hub.files("me/net").values())
    with pytest.raises(UserError, match="needs a file of yours, which defines Filter, Linear"):
        sj.load(ADDRESS, arch="front:0")
    module, variables = sj.load(ADDRESS, arch="front:0", space_file=CONFIG)
    (own,) = searched.glob(f"networks/front-30-safetensors/{table(hub)[0]['folder']}")
    mine, weights = sj.load(own, space_file=CONFIG)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(module.apply(variables, x), mine.apply(weights, x))
    again = supernet(capsys, *words)
    assert again.status == 0 and "it holds all of that already" in again.out, again.err


def test_the_front_of_a_run_that_is_read_only(
    hub: Hub, searched: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root, all may be written
    run = sj.open_run(searched, CONFIG, read=False)
    assert sj.publish(run, "me/net", license="mit").sent is not None
    assert len(table(hub)) == 2 and not (searched / "networks").exists()


def test_a_run_begins_from_a_hub(
    hub: Hub, searched: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = sj.open_run(searched, CONFIG)
    sj.extract(run, "largest", tmp_path / "largest")
    publish(tmp_path / "largest")
    given = ("--config", CONFIG, "--out")
    said = supernet(capsys, "import", "hub", "me/net", *given, tmp_path / "grown")
    assert said.status == 0 and "largest subnet's logits differ" in said.out, said.err
    grown = sj.open_run(tmp_path / "grown", tiny_config.config)
    kernel = np.asarray(grown.params["first"]["conv"]["kernel"])
    np.testing.assert_array_equal(kernel, run.params["first"]["conv"]["kernel"])
    for name, said_ in (("me/gone", "no repository me/gone"), ("me", "names no repository")):
        said = supernet(capsys, "import", "hub", name, *given, tmp_path / "other")
        assert said.status == 2 and said_ in said.err


def test_inputs_of_a_network_on_a_hub(hub: Hub, networks: pathlib.Path) -> None:
    publish(networks / "small")
    with pytest.raises(UserError, match="does not say how an image file becomes"):
        sj.inputs(ADDRESS, ["a.png"])  # of two colours, which no file has


def test_a_dry_run_shows_all(
    hub: Hub, networks: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("publish", networks / "small", "--repo", "me/net", "--dry-run")
    said = supernet(capsys, *words, "--license", "mit", "--dataset", "me/data")
    assert said.status == 0 and not hub.requests
    for text in ("3 files", f"  {WEIGHTS}  ", "nothing was sent", "license: mit", "- me/data"):
        assert text in said.out


REFUSED = [
    ("no licence", [], {}, "a card needs a licence: --license apache-2.0, or another"),
    ("licence", ["--license", "MIT"], {}, "as the hub writes it: .* did you mean mit"),
    ("unknown licence", ["--license", "my-own"], {}, 'does not take me/net: "license" must be'),
    ("no token", ["--license", "mit"], {"HF_TOKEN": ""}, "needs a token of yours .* auth login"),
    ("a bad one", ["--license", "mit"], {"HF_TOKEN": "no"}, r"refuses your token \(401"),
    (
        "rights",
        ["--license", "mit", "--repo", "you/net"],
        {},
        r"may not do that with you/net \(403",
    ),
    ("name", ["--license", "mit", "--repo", "net"], {}, "'net', but must be ORG/NAME"),
    ("data", ["--license", "mit", "--dataset", "x"], {}, "--dataset is 'x', but must be ORG/NAME"),
]


@pytest.mark.parametrize(
    ("words", "env", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_is_refused(
    hub: Hub,
    networks: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    env: dict[str, str],
    said: str,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    refused = supernet(capsys, "publish", networks / "small", "--repo", "me/net", *words)
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert re.search(said, refused.err)
    assert not hub.repositories
    monkeypatch.undo()


def test_a_warning_of_the_hub_is_logged(
    hub: Hub, networks: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(networks / "small", dataset="me/unheard")
    assert "me/unheard is no data set" in caplog.text


@pytest.mark.parametrize("fails", [False, True])
def test_other_warnings_are_shown(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    def download(*_: object, **__: object) -> str:
        warnings.warn("soon otherwise", FutureWarning, stacklevel=1)
        if fails:
            raise ValueError("not that")
        return "commit"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    ends = pytest.raises(UserError, match="not that") if fails else contextlib.nullcontext()
    with pytest.warns(FutureWarning, match="soon otherwise"), ends:
        hub_storage.fetched(hub_storage.Address("me/net"), [])


def test_an_error_of_ours_is_not_blamed_on_the_hub(hub: Hub, networks: pathlib.Path) -> None:
    def broken(paths: Any) -> set[str]:
        raise ValueError("planted")

    given: dict[str, Any] = {"private": False, "replace": False, "message": "all"}
    with pytest.raises(ValueError, match=r"^planted$"):
        hub_storage.send(networks / "small", "me/net", ours=broken, **given)


def test_no_place_for_temporary_files(
    hub: Hub, networks: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UserError, match="cannot write a temporary folder, whose place TMPDIR"):
        publish(networks / "small")
    assert not hub.requests


def test_a_hub_that_is_away(
    hub: Hub, networks: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(networks / "small")
    sj.load(ADDRESS)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert same(sj.load(ADDRESS), "small")  # of the cache
    with pytest.raises(UserError, match=r"cannot be reached for me/other .*try again"):
        sj.load("hf:me/other")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="me/other is not on this machine, and HF_HUB_OFFLINE"):
        sj.load("hf:me/other")
    monkeypatch.undo()


NO_ADDRESS = [
    *("hf:a", "hf:/a/b", "hf:a/b@", "hf:", "hf:a/b/../c", "hf:a/b/./c", "hf:a/b//etc/x"),
    *("hf:a/b/c//d", "hf:a/b/c\\d", "hf:a/b@v1//etc", "hf:a/b/.."),
]


@pytest.mark.parametrize("text", NO_ADDRESS)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=r"names no repository on the hub; write hf:ORG/.* commit"):
        sj.load(text)
    with pytest.raises(UserError, match="is written hf:ORG/NAME"):
        network_folder.check_free("hf://a/b")


def test_addresses() -> None:
    for text in ("hf:a/b", "hf:a/b@v1", "hf:a/b@v1/c/d", "hf:a/b/c"):
        assert str(hub_storage.address(text)) == text
    assert hub_storage.address("a/b") is None and hub_storage.address(None) is None


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for call in (lambda: sj.load(ADDRESS), lambda: publish(tmp_path)):
        with pytest.raises(UserError, match=r'pip install "supernet_jax\[hub\]"'):
            call()
    monkeypatch.undo()

"""The command line as users see it, on a run that takes a second to train."""

import dataclasses
import errno
import importlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from conftest import ROOT
from tiny_run import ARCH, ARCHS, CONFIG, COSTS, NETWORKS, supernet

from supernet_jax import data, spaces
from supernet_jax.cli import extract, info, main, quickstart
from supernet_jax.elastic import notation
from supernet_jax.evaluation import costs, evaluate
from supernet_jax.experiment import build, config, run, search, take_out
from supernet_jax.experiment import extract as experiment_extract
from supernet_jax.experiment.config import Config
from supernet_jax.experiment.run import Run
from supernet_jax.networks import manifest, network_folder
from supernet_jax.runtime import distributed, progress, stopping
from supernet_jax.storage import checkpoint, typed_json

Capture = pytest.CaptureFixture[str]
PNG = b"\x89PNG\r\n\x1a\n"
GOLDEN = json.loads((ROOT / "tests" / "goldens" / "attentivenas.json").read_text())["nets"]


@pytest.fixture
def trained(tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the trained run."""
    return shutil.copytree(tiny_run.trained(tmp_path_factory), tmp_path / "run")


@pytest.fixture
def searched(tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the run in which all archs were searched at random."""
    return shutil.copytree(tiny_run.searched(tmp_path_factory), tmp_path / "run")


@pytest.fixture
def no_evaluation(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whoever evaluates anything from now on fails."""
    tiny_run.searched(tmp_path_factory)

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("something is evaluated")

    monkeypatch.setattr(evaluate, "evaluate", refuse)


def done(capsys: Capture, *arguments: object) -> str:
    """What a command prints that must succeed."""
    said = supernet(capsys, *arguments)
    assert said.status == 0, said
    return said.out


def opened(folder: pathlib.Path) -> Run:
    return run.open_run(folder, config.load_file(CONFIG)[1])


def lines(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def content(folder: pathlib.Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- help, version, how it is installed ------------------------------------------------------


POSITIONAL = {  # or whole settings
    "train": ("config", "place"),
    "import": ("kind", "source", "settings"),
    "search": ("run", "settings", "part", "place"),
    "evaluate": ("run", "place"),
    "info": ("space", "part"),
    "publish": ("source",),
}


@pytest.mark.parametrize("command", [name for name in main.COMMANDS if name != "launch"])
def test_help_of_a_command(command: str, capsys: Capture) -> None:
    module = main.module(command)
    shown = done(capsys, command, "--help")
    out = " ".join(shown.split())
    for example in module.EXAMPLES.strip().splitlines():
        assert " ".join(example.split()) in out
        if "supernet " in example:
            assert f"\n  {example[:40]}" in shown, "examples stand in lines of their own"
    assert "\n    " not in shown.partition("Examples:")[0], "paragraphs begin at the margin"
    assert f"supernet {command}" in out
    settings = dataclasses.fields(search.Search) if command == "search" else ()
    joins = {"train", "evaluate", "search"}
    places = dataclasses.fields(distributed.Place) if command in joins else ()
    for field in (*dataclasses.fields(module.Arguments), *settings, *places):
        option = field.name.replace("_", "-")
        unnamed = field.name in POSITIONAL.get(command, ("run", "space"))
        assert unnamed or f"--{option}" in out


def test_help_of_a_config_file(capsys: Capture) -> None:
    out = " ".join(done(capsys, "train", CONFIG, "--help").split())
    for option in ("--space.widths", "--optimizer.momentum", "--data.flip", "--train.dtype"):
        assert option in out
    assert "channels on offer (default: 2 4 6)" in out
    assert "--sampler.n-random INT random subnets per step; more take longer (default: 1)" in out


@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
def test_overview(flag: str, capsys: Capture) -> None:
    out = done(capsys, flag)
    for name, what in main.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what)}$", out, re.MULTILINE)


@pytest.mark.parametrize("flag", ["--version", "version"])
def test_version_and_console_script(
    flag: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert done(capsys, flag) == f"{project['version']}\n"
    module, _, name = project["scripts"]["supernet"].partition(":")
    monkeypatch.setattr(sys, "argv", ["supernet", flag])
    vars(importlib.import_module(module))[name]()
    assert capsys.readouterr().out == f"{project['version']}\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    code = "from supernet_jax.cli.main import main; main(['--help'])"
    command = [sys.executable, "-W", "error", "-c", code]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ended = subprocess.run(
        command, cwd=ROOT, env=buffered, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupted(arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "run", interrupted)
    said = supernet(capsys, "info", "digits")
    assert said.status == 130
    assert said.err == (
        "supernet: interrupted; it keeps nothing, so the same command begins anew\n"
    )
    monkeypatch.setattr(extract, "run", interrupted)
    said = supernet(capsys, "extract", "run", "--arch", "largest", "--out", "network")
    assert said.status == 130
    assert said.err == "supernet: interrupted; the same command goes on where it stopped\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "f"),
            "this machine .* f .*free space",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "f"),
            "this machine .* f .*the right",
        ),
        (MemoryError("Unable to allocate 9 GiB"), "out of memory .*lower --train.batch"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory .*lower --train.batch"),
        (
            jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nMore"
            ),
            "out of memory .*allocating 9 bytes.*XLA_PYTHON_CLIENT_MEM_FRACTION",
        ),
        (
            jax.errors.JaxRuntimeError("INTERNAL: Error: Out of memory allocating 9 bytes"),
            "out of memory .*allocating 9 bytes.*lower --train.batch",
        ),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def refused(arguments: Any) -> None:
        raise error

    monkeypatch.setattr(info, "run", refused)
    ended = supernet(capsys, "info", "digits")
    assert ended.status == 2 and re.match(f"supernet: {said}[^\n]*\n$", ended.err)


def test_streams_that_were_closed() -> None:
    code = (
        "import sys; sys.stdout = None; from supernet_jax.cli.main import main; main(['--version'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_seeds_that_would_be_cut(capsys: Capture) -> None:
    said = supernet(capsys, "info", CONFIG, "--sampler", "--seed", 2**32)
    assert said.status == 2 and f"--seed is {2**32}, but must be at most {2**32 - 1}" in said.err
    said = supernet(capsys, "train", CONFIG, "--dry-run", "--train.steps", 2**31)
    assert said.status == 2 and f"train.steps is {2**31}, but must be at most" in said.err


def test_a_reader_that_has_gone_hides_no_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def stopped(arguments: Any) -> None:
        with stopping.held():
            os.kill(os.getpid(), signal.SIGTERM)
            while not stopping.asked():
                time.sleep(0.01)
            raise BrokenPipeError  # as the reader was ended by a signal to all

    monkeypatch.setattr(info, "run", stopped)
    assert supernet(capsys, "info", "digits").status == 75


@pytest.mark.parametrize("error", [OSError("no number"), jax.errors.JaxRuntimeError("INTERNAL: x")])
def test_a_bug_stays_a_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def broken(arguments: Any) -> None:
        raise error

    monkeypatch.setattr(info, "run", broken)
    with pytest.raises(type(error)):
        supernet(capsys, "info", "digits")


def test_a_mistake_starts_no_device() -> None:
    """Nor does one that JAX cannot start stand in its way."""
    ended = subprocess.run(
        [sys.executable, "-m", "supernet_jax", "info", "nowhere"],
        env={**os.environ, "JAX_PLATFORMS": "nonsense"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr


def test_a_terminal_that_cannot_show_a_name() -> None:
    code = (
        "from supernet_jax.cli import info, main\n"
        "info.run = lambda arguments: print('\\xdcbung', '\\udcff', '\\u4e16')\n"
        "main.main(['info', 'digits'])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        cwd=ROOT,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == b"\\xdcbung \\udcff \\u4e16\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (CONFIG, "--out", "runs/x.py", "--data.flip", "--train.steps", 9),
        ("--data.flip", CONFIG, "--out", "runs/x.py", "--train.steps", 9),
        ("--train.steps", 9, "--out", "runs/x.py", CONFIG, "--data.flip"),
    ],
)
def test_where_the_config_file_stands(
    arguments: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    seen = []
    monkeypatch.setattr(main.module("train"), "run", seen.append)
    done(capsys, "train", *arguments)
    (parsed,) = seen
    assert parsed.out == pathlib.Path("runs/x.py")
    assert parsed.config.train.steps == 9 and parsed.config.data.flip
    assert type(parsed.config.space).__name__ == "TinySpace"


def test_the_cache_of_compiled_programs_is_the_users(capsys: Capture) -> None:
    before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    done(capsys, "info", CONFIG, "--archs", "smallest")
    assert jax.config.jax_compilation_cache_dir == before  # type: ignore[attr-defined]


# --- progress --------------------------------------------------------------------------------


def test_progress_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.0)
    with progress.bar("training", 6, done=2) as advance:
        advance(3, "loss 1.5")
        advance()
    said = capsys.readouterr()
    assert said.out == ""
    first, last = said.err.splitlines()
    assert re.fullmatch(r"training: 5 of 6 steps, [\d.]+/s, \d+ s left, loss 1\.5", first)
    assert re.fullmatch(r"training: 6 of 6 steps, [\d.]+/s, 0 s left", last)


def test_progress_is_silent_for_a_while(capsys: Capture) -> None:
    with progress.bar("searching", 100, unit="subnet") as advance:
        for _ in range(100):
            advance()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("searching: 100 of 100 subnets, ")


def test_progress_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.bar("training", 6, done=2) as advance:
        advance(4, "loss 1.5")
    said = capsys.readouterr()
    assert said.out == ""
    for part in ("training", "6/6", "steps/s", "loss 1.5", "\x1b["):
        assert part in said.err


# --- info ------------------------------------------------------------------------------------


def test_info_draws_a_space(capsys: Capture) -> None:
    out = done(capsys, "info", CONFIG)
    assert f"tiny: {ARCHS} archs, 5 decisions, 3 elastic blocks" in out
    rows = {row.split()[0]: row.split()[1:] for row in out.splitlines() if row.strip()}
    assert rows["width"] == ["2", "4", "6"]
    assert rows["kernel"] == ["1", "3", "1", "3"]
    macs = [float(cell) for cell in rows["MACs,"][1:]]
    assert (macs[0], macs[-1]) == tuple(round(cost / 1e6, 3) for cost in COSTS)
    assert macs == sorted(macs)
    assert re.search(r"^\|[ ▁▂▃▄▅▆▇█]+\|$", out, re.MULTILINE)


def test_info_of_a_space_with_many_decisions(capsys: Capture) -> None:
    out = done(capsys, "info", "ofa_mobilenetv3", "--samples", 20)
    assert "7,678,880 shared parameters" in " ".join(out.split())
    for row in (
        "ks, each of 20 +3 5 7",
        "e, each of 20 +3 4 6",
        r"r +128 132 \.\.\. 224",
        "d +(2 3 4 *){5}",
        r"MACs, M .* 566\.171",
    ):
        assert re.search(rf"^ *{row} *$", out, re.MULTILINE), row


def test_info_as_json(capsys: Capture) -> None:
    value = json.loads(done(capsys, "info", CONFIG, "--json", "--samples", 50))
    assert value["archs"] == ARCHS
    assert value["menu"]["kernel"] == [[1, 3], [1, 3]]
    assert (value["macs"]["smallest"], value["macs"]["largest"]) == COSTS
    assert value["random"] == {"samples": 50, "seed": 0}
    # One Conv of 3x3 and one of 3x3, each with scale and bias, and the classifier.
    assert value["parameters"]["largest"] == 6 * 9 + 12 + 6 * 6 * 9 + 12 + 6 * 10 + 10
    assert value["supernet_parameters"] == value["parameters"]["largest"]


def test_info_of_archs(capsys: Capture, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "archs.json"
    file.write_text(json.dumps([ARCH, {"arch": ARCH, "accuracy": 0.5}]))
    rows = json.loads(done(capsys, "info", CONFIG, "--archs", file, "--json"))
    macs = 8 * 8 * (4 + 4 * 4 * 9) + 4 * 10
    parameters = 4 + 8 + 4 * 4 * 9 + 8 + 4 * 10 + 10
    assert rows == [{"arch": ARCH, "macs": macs, "parameters": parameters}] * 2
    out = done(capsys, "info", CONFIG, "--archs", json.dumps(ARCH))
    assert json.dumps(ARCH) in out and f"{macs:,}" in out and str(parameters) in out
    for name, cost in zip(("smallest", "largest"), COSTS, strict=True):
        (row,) = json.loads(done(capsys, "info", CONFIG, "--archs", name, "--json"))
        assert row["macs"] == cost


def test_published_counts(capsys: Capture, tmp_path: pathlib.Path) -> None:
    """To the unit; AttentiveNAS A0 to A6 as the published code counts them."""
    file = tmp_path / "archs.json"
    file.write_text(json.dumps([net["cfg"] for net in GOLDEN.values()]))
    rows = json.loads(done(capsys, "info", "attentivenas", "--archs", file, "--json"))
    assert [row["arch"] for row in rows] == [net["cfg"] for net in GOLDEN.values()]
    assert [row["macs"] / 1e6 for row in rows] == [net["MMACs"] for net in GOLDEN.values()]
    wanted = [net["effective_params"] for net in GOLDEN.values()]
    assert [row["parameters"] for row in rows] == wanted


# --- train -----------------------------------------------------------------------------------


def test_a_trained_run(trained: pathlib.Path) -> None:
    assert checkpoint.steps(trained / "checkpoints") == (15, 30)
    assert [line["step"] for line in lines(trained / "metrics.jsonl")] == [10, 20, 30]
    meta = checkpoint.read_meta(trained / "checkpoints")
    run = opened(trained)
    assert run.step == 30 and run.trained_on == run.experiment.dataset.fingerprint == meta["data"]
    assert meta["config"] == typed_json.to_json(run.experiment.config)


def test_a_finished_run_stays_as_it_is(trained: pathlib.Path, capsys: Capture) -> None:
    before = content(trained)
    out = done(capsys, "train", CONFIG, "--out", trained)
    assert out == f"trained 30 steps; next: supernet search {trained}\n"
    assert content(trained) == before


def test_a_killed_run_goes_on(trained: pathlib.Path, capsys: Capture) -> None:
    """As if it had been killed while step 30 was saved: the same command, the same parameters."""
    whole = opened(trained).params
    metrics = (trained / "metrics.jsonl").read_text()
    shutil.rmtree(trained / "checkpoints" / "30")
    assert "trained 30 steps" in done(capsys, "train", CONFIG, "--out", trained)
    resumed = opened(trained).params
    assert jax.tree.structure(whole) == jax.tree.structure(resumed)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert (trained / "metrics.jsonl").read_text() == metrics


# --- evaluate --------------------------------------------------------------------------------


def test_evaluate_computes_once(
    trained: pathlib.Path, capsys: Capture, request: pytest.FixtureRequest
) -> None:
    command = ("evaluate", trained, "--config", CONFIG, "--random")
    first = done(capsys, *command, 3)
    assert "3 subnets on 64 held-out images, each calibrated on 1 batches of 64; best" in first
    known = lines(trained / "evaluations.jsonl")
    assert len(known) == 3
    request.getfixturevalue("no_evaluation")
    assert done(capsys, *command, 3) == first
    assert lines(trained / "evaluations.jsonl") == known
    for more in (("--seed", 1), ("--split", "test")):
        with pytest.raises(RuntimeError, match="something is evaluated"):
            supernet(capsys, *command, 3, *more)


def test_what_evaluate_writes(trained: pathlib.Path, capsys: Capture) -> None:
    out = trained.parent / "out.json"
    archs = trained.parent / "archs.json"
    archs.write_text(json.dumps([ARCH]))
    command = ("evaluate", trained, "--config", CONFIG, "--split", "test")
    done(capsys, *command, "--archs", archs, "--out", out)
    run = opened(trained)
    (record,) = json.loads(out.read_text())
    images = len(run.experiment.dataset.test.labels)  # a limit is for the held-out split only
    assert record == {
        "arch": ARCH,
        "accuracy": record["accuracy"],
        "loss": record["loss"],
        "macs": int(costs.macs(run.experiment.space)(arch_of(run))),
        "parameters": int(costs.parameters(run.experiment.space)(arch_of(run))),
        "space": "tiny",
        "checkpoint": 30,
        "split": "test",
        "images": images,
        "data": run.experiment.dataset.fingerprint,
        "calibration": [1, 64],
        "dtype": "float32",
    }
    assert lines(trained / "evaluations.jsonl") == [record]
    accuracy, loss = measured(run, "test")
    assert record["accuracy"] == round(accuracy, 6)
    assert record["loss"] == pytest.approx(loss, rel=1e-5)  # sums in another order


def arch_of(run: Run) -> Any:
    return notation.from_notation(run.experiment.space.menu, ARCH)


def measured(run: Run, split: str) -> tuple[float, float]:
    """Accuracy and loss of the arch on a split, in one batch."""
    dataset = run.experiment.dataset
    images, labels = {"test": dataset.test, "held-out": dataset.held_out}[split]
    logits = tiny_run.logits(run, arch_of(run), images).astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    right = float(np.mean(logits.argmax(-1) == labels))
    return right, float(-np.mean(log_p[np.arange(len(labels)), labels]))


@pytest.mark.usefixtures("no_evaluation")
def test_evaluate_the_front(searched: pathlib.Path, capsys: Capture) -> None:
    out = searched.parent / "out.json"
    done(capsys, "evaluate", searched, "--config", CONFIG, "--front", "--out", out)
    front = json.loads((searched / "search.json").read_text())["front"]
    assert json.loads(out.read_text()) == front
    text = done(capsys, "evaluate", searched, "--config", CONFIG, "--archs", "smallest")
    assert "1 subnet on 64 held-out images" in text and "148" in text


def test_a_line_cut_by_a_kill_is_computed_again(searched: pathlib.Path, capsys: Capture) -> None:
    path = searched / "evaluations.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-9])
    archs = searched.parent / "archs.json"
    archs.write_text(json.dumps([json.loads(line)["arch"] for line in whole.splitlines()]))
    done(capsys, "evaluate", searched, "--config", CONFIG, "--archs", archs)
    assert path.read_text() == whole


def test_other_images_than_in_training(
    searched: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    loaded = data.load("digits", held_out=0.2, seed=0)
    other = dataclasses.replace(loaded, fingerprint="0123456789abcdef")
    monkeypatch.setattr(data, "load", lambda *_, **__: other)
    command = ("evaluate", searched, "--config", CONFIG, "--archs", "smallest")
    said = supernet(capsys, *command)
    assert said.status == 0
    assert "warning: digits no longer gives the images that" in said.err
    assert f"fingerprint 0123456789abcdef, then {loaded.fingerprint}" in said.err
    assert len(lines(searched / "evaluations.jsonl")) == NETWORKS + 1  # not taken for the same


# --- search ----------------------------------------------------------------------------------

TIGHT = (500.0, 9_000.0)  # MACs, within those of the space
SMALL = (
    *("--evaluations", 12, "--no-baseline", "--searcher.population", 6),
    *("--searcher.mutations", 2, "--searcher.crossovers", 2),
)


@pytest.mark.parametrize("searcher", ["random", "evolution"])
@pytest.mark.parametrize("cost", ["macs", "parameters"])
def test_search_within_a_budget(
    searcher: str,
    cost: str,
    searched: pathlib.Path,
    no_evaluation: None,
    capsys: Capture,
) -> None:
    low, high = TIGHT if cost == "macs" else (60.0, 300.0)
    unit = {"macs": "MACs", "parameters": "parameters"}[cost]
    options = ("--searcher", searcher, "--cost", cost, "--low", low, "--high", high, "--seed", 3)
    small = SMALL if searcher == "evolution" else (*SMALL[:3], "--searcher.batch", 6)
    out = done(capsys, "search", searched, "--config", CONFIG, *options, *small)
    result = json.loads((searched / "search.json").read_text())
    run = opened(searched)
    wanted = {
        "run": str(searched),
        "space": "tiny",
        "checkpoint": 30,
        "split": "held-out",
        "images": 64,
        "data": run.experiment.dataset.fingerprint,
        "calibration": [1, 64],
        "dtype": "float32",
        "searcher": searcher,
        "cost": cost,
        "budgets": [{"cost": cost, "unit": unit, "low": low, "high": high, "aim": -1}],
        "seed": 3,
        "unit": unit,
        "evaluations": len(result["all"]),
    }
    assert {key: result[key] for key in wanted} == wanted
    assert 6 <= result["evaluations"] <= 12
    assert all(low <= spent <= high for spent, _ in result["all"])
    front = result["front"]
    assert [entry[cost] for entry in front] == sorted(entry[cost] for entry in front)
    accuracies = [entry["accuracy"] for entry in front]
    assert accuracies == sorted(set(accuracies))
    assert accuracies[-1] == max(accuracy for _, accuracy in result["all"])
    assert all([entry[cost], entry["accuracy"]] in result["all"] for entry in front)
    assert (searched / "front.png").read_bytes().startswith(PNG)
    assert f"front:{len(front) - 1}" in out and f"front:{len(front)}" not in out
    assert f"{result['evaluations']} subnets scored on 64 images held out of training" in out


def test_search_never_looks_at_test_images(
    trained: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    asked = []
    original = build.evaluation_data

    def watched(built: Any, split: str) -> Any:
        asked.append(split)
        result = original(built, split)
        held_out, calibration = built.dataset.held_out.images, built.dataset.train.images
        assert {image.tobytes() for image in np.asarray(result.inputs[0])} <= {
            image.tobytes() for image in held_out
        }
        assert {image.tobytes() for image in np.asarray(result.calibration[0])} <= {
            image.tobytes() for image in calibration
        }
        return result

    monkeypatch.setattr(build, "evaluation_data", watched)
    done(capsys, "search", trained, "--config", CONFIG, *SMALL)
    assert set(asked) == {"held-out"}
    known = lines(trained / "evaluations.jsonl")
    assert {record["split"] for record in known} == {"held-out"} and len(known) == 12


def test_a_search_goes_on(
    trained: pathlib.Path, capsys: Capture, request: pytest.FixtureRequest
) -> None:
    command = ("search", trained, "--config", CONFIG, *SMALL[2:], "--evaluations")
    done(capsys, *command, 8)
    short = json.loads((trained / "search.json").read_text())
    done(capsys, *command, 12)
    long = json.loads((trained / "search.json").read_text())
    assert long["all"][:8] == short["all"] and len(long["all"]) == 12
    assert len(lines(trained / "evaluations.jsonl")) == 12
    request.getfixturevalue("no_evaluation")
    done(capsys, *command, 12)
    assert json.loads((trained / "search.json").read_text()) == long


def test_search_without_a_budget(searched: pathlib.Path) -> None:
    result = json.loads((searched / "search.json").read_text())
    (budget,) = result["budgets"]
    assert budget == {"cost": "macs", "unit": "MACs", "low": None, "high": None, "aim": -1}
    known = {json.dumps(line["arch"]) for line in lines(searched / "evaluations.jsonl")}
    assert result["evaluations"] == NETWORKS == len(known) == len(result["all"])
    assert {spent for spent, _ in result["all"]} >= set(COSTS)


def test_several_budgets_and_what_random_search_finds(
    searched: pathlib.Path, no_evaluation: None, capsys: Capture
) -> None:
    command = ("search", searched, "--config", CONFIG, "--evaluations", 10, "--searcher", "nsga2")
    limits = ("--budget", "macs:..9000", "--budget", "parameters:60..300")
    out = done(capsys, *command, "--searcher.population", 4, *limits)
    result = json.loads((searched / "search.json").read_text())
    for macs, _, parameters in result["all"]:
        assert macs <= 9000 and 60 <= parameters <= 300
    assert [one["name"] for one in result["objectives"]] == ["accuracy", "macs", "parameters"]
    assert [one["cost"] for one in result["budgets"]] == ["macs", "parameters"]
    points = [(one["accuracy"], -one["macs"], -one["parameters"]) for one in result["front"]]
    assert not any(
        all(a >= b for a, b in zip(p, q, strict=True)) for p in points for q in points if p != q
    )
    assert [one["macs"] for one in result["front"]] == sorted(-p[1] for p in points)
    random = result["random"]
    assert random["evaluations"] == result["evaluations"] and random["front"]
    assert 0 < random["hypervolume"] <= 1 and 0 < result["hypervolume"] <= 1
    beaten = result["hypervolume"] > random["hypervolume"]
    assert ("the searcher did not beat random search" in out) != beaten

    # As small a loss as can be, by the fewest parameters, whatever the MACs; peak memory bounded.
    goals = ("--objective", "loss:min", "--objective", "parameters:min")
    done(capsys, *command, *goals, "--budget", "peak_memory:..1e5", "--no-baseline")
    result = json.loads((searched / "search.json").read_text())
    assert "random" not in result
    assert [one["aim"] for one in result["budgets"]] == [0, -1]
    assert all(one["peak_memory"] <= 1e5 for one in result["front"])
    losses = [one["loss"] for one in sorted(result["front"], key=lambda one: one["parameters"])]
    assert losses == sorted(losses, reverse=True)


def test_a_search_that_begins_with_what_is_known(
    searched: pathlib.Path, no_evaluation: None, capsys: Capture
) -> None:
    known = searched / "evaluations.jsonl"
    some = searched.parent / "some.jsonl"
    some.write_text("".join(known.read_text().splitlines(keepends=True)[:10]))
    options = ("--evaluations", 99, "--warm-start", some)
    for searcher in ("random", "evolution", "nsga2"):
        command = ("search", searched, "--config", CONFIG, *options, "--searcher", searcher)
        done(capsys, *command)
        result = json.loads((searched / "search.json").read_text())
        assert (result["warm"], result["evaluations"]) == (10, NETWORKS - 10)
        front = [json.dumps(one["arch"]) for one in result["front"]]
        done(capsys, "search", searched, "--config", CONFIG, "--searcher", "random")
        whole = json.loads((searched / "search.json").read_text())
        assert front == [json.dumps(one["arch"]) for one in whole["front"]]


def test_a_search_without_a_front_leaves_that_of_the_last(
    searched: pathlib.Path, capsys: Capture
) -> None:
    before = (searched / "search.json").read_bytes()
    command = ("search", searched, "--config", CONFIG, "--high", 200, "--searcher", "blockwise")
    said = supernet(capsys, *command, "--evaluations", 2)
    assert said.status == 2 and "none of the 2 subnets that blockwise evaluated" in said.err
    assert "costs at most 200 MACs; the same command with more --evaluations goes on" in said.err
    assert (searched / "search.json").read_bytes() == before
    done(capsys, *command, "--evaluations", NETWORKS)


def test_a_warm_start_is_that_of_the_beginning(trained: pathlib.Path, capsys: Capture) -> None:
    known, result = trained / "evaluations.jsonl", trained / "search.json"
    done(capsys, "evaluate", trained, "--config", CONFIG, "--random", 4)
    with known.open("a") as file:
        file.write('{"arch": \n')  # as a full disk leaves it
    there = len(lines_that_can_be_read(known))
    command = ("search", trained, "--config", CONFIG, "--evaluations", 6, "--warm-start", known)
    said = supernet(capsys, *command, "--no-baseline", "--searcher", "nsga2")
    assert said.status == 0 and "damaged lines (1" in said.err
    first = json.loads(result.read_text())
    assert first["warm"] == there and len(lines_that_can_be_read(known)) == there + 6
    done(capsys, *command, "--no-baseline", "--searcher", "nsga2")
    assert json.loads(result.read_text()) == first


def lines_that_can_be_read(path: pathlib.Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


# --- extract ---------------------------------------------------------------------------------


def test_extract(searched: pathlib.Path, capsys: Capture) -> None:
    folder = searched.parent / "network"
    arch = json.dumps(ARCH)
    out = done(capsys, "extract", searched, "--config", CONFIG, "--arch", arch, "--out", folder)
    assert f"wrote {folder}: 9,512 MACs, 214 parameters, test accuracy" in out
    module, variables = network_folder.load(folder, space_file=CONFIG)
    run = opened(searched)
    images = run.experiment.dataset.test.images[:32]
    prepared = run.experiment.prepare(jnp.asarray(images))
    ours = np.asarray(jax.jit(module.apply)(variables, prepared))
    theirs = tiny_run.logits(run, arch_of(run), images)
    # float32 sums in another order
    assert np.max(np.abs(ours - theirs)) <= 1e-5 * np.max(np.abs(theirs))
    description = manifest.read_description(folder)
    assert description["arch"] == ARCH
    assert description["accuracy"]["test"] == pytest.approx(measured(run, "test")[0], abs=1e-9)
    (known,) = [r for r in lines(searched / "evaluations.jsonl") if r["arch"] == ARCH]
    assert description["accuracy"]["held-out"] == pytest.approx(known["accuracy"], abs=1e-6)
    assert description["source"]["checkpoint"] == 30
    assert description["source"]["run"] == str(searched)
    assert description["source"]["parameters_read"] == "whole"  # for they are few


def test_extract_reads_only_what_it_needs(
    searched: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    command = ("extract", searched, "--config", CONFIG, "--arch", json.dumps(ARCH), "--out")
    monkeypatch.setattr(experiment_extract, "WHOLE", 0)  # as if they were many
    folders = [searched.parent / name for name in ("whole", "auto")]
    done(capsys, *command, folders[0], "--read", "whole")
    monkeypatch.setattr(checkpoint, "restore_params", None)
    done(capsys, *command, folders[1])
    (_, whole), (_, auto) = (network_folder.load(folder, space_file=CONFIG) for folder in folders)
    for a, b in zip(jax.tree.leaves(auto), jax.tree.leaves(whole), strict=True):
        # statistics are float32 sums in programs of other shapes
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    one, other = (manifest.read_description(folder) for folder in folders)
    assert one["blocks"] == other["blocks"] and one["accuracy"] == other["accuracy"]
    assert [d["source"]["parameters_read"] for d in (one, other)] == ["whole", "slices"]


def test_extract_from_the_front(searched: pathlib.Path, capsys: Capture) -> None:
    front = json.loads((searched / "search.json").read_text())["front"]
    last = len(front) - 1
    folder = searched.parent / "network"
    command = ("extract", searched, "--config", CONFIG, "--arch", f"front:{last}", "--out", folder)
    done(capsys, *command)
    description = manifest.read_description(folder)
    assert description["arch"] == front[last]["arch"]
    assert description["macs"] == front[last]["macs"]


# --- quickstart ------------------------------------------------------------------------------


def test_quickstart(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The whole of it, on a smaller space."""
    settings, own = config.load_file(CONFIG)
    monkeypatch.setitem(config.LIBRARY, "TinySpace", own["TinySpace"])
    monkeypatch.setattr(quickstart, "_settings", lambda arguments: settings)
    monkeypatch.setattr(quickstart, "EVALUATIONS", NETWORKS)
    folder = tmp_path / "quick"
    out = done(capsys, "quickstart", "--out", folder, "--steps", 6)
    results = json.loads((folder / "results.json").read_text())
    names = [pathlib.Path(network["folder"]).name for network in results["networks"]]
    assert names == list(quickstart.NETWORKS[: len(names)]) and names
    assert {path.name for path in (folder / "networks").iterdir()} == set(names)
    search = json.loads((folder / "search.json").read_text())
    assert search["split"] == "held-out" and search["evaluations"] == NETWORKS
    for entry in results["networks"]:
        assert entry["logit_difference"] <= 1e-5
        assert f"{entry['test_accuracy']:.2%}" in out
        module, variables = network_folder.load(entry["folder"], space_file=CONFIG)
        assert module.apply(variables, jnp.zeros((1, 8, 8, 1))).shape == (1, 10)
    assert (folder / "front.png").read_bytes().startswith(PNG)
    assert f"next: supernet search {folder} --high" in out
    monkeypatch.setattr(take_out, "take_out", None)  # what is there is taken as it is
    again = done(capsys, "quickstart", "--out", folder, "--steps", 6)
    assert again.splitlines()[: len(names)] == out.splitlines()[: len(names)]


def test_quickstart_settings() -> None:
    settings = quickstart._settings(quickstart.Arguments(steps=7, seed=3))
    assert (settings.train.steps, settings.train.seed) == (7, 3)
    assert isinstance(settings, Config) and isinstance(settings.space, spaces.Digits)

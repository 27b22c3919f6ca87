"""Benchmarks: the command that runs them all, and how operations of a program are told apart."""

import argparse
import functools
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import time

import pytest
from conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))  # at the end: it has names like data and compile
everything = importlib.import_module("everything")
jobs = importlib.import_module("jobs")
gpu_program = importlib.import_module("gpu_program")
measure = importlib.import_module("measure")
profile_step = importlib.import_module("profile_step")

SCRIPT = """
import argparse, json, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--json")
parser.add_argument("--sleep", type=float, default=0)
parser.add_argument("--fail", action="store_true")
given = parser.parse_args()
time.sleep(given.sleep)
print("| a table |")
if given.fail:
    sys.exit("what went wrong")
open(given.json, "w").write(json.dumps({"machine": {"cores": 2}, "figures": [1.5]}))
"""
FINE = jobs.Job("fine", "script", (), 0.0)
BROKEN = jobs.Job("broken", "script", ("--fail",), 0.0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs jobs of a script that does what it is told; gives their states by name."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(everything, "HERE", tmp_path)

    def start(*found: jobs.Job, budget: float | None = None, again: bool = False):
        ended = everything.run_all(found, tmp_path / "out", budget=budget, again=again)
        return {e.job.name: e.state for e in ended}

    return start


def test_one_that_fails_does_not_stop_the_others(run, tmp_path, capsys) -> None:
    assert run(BROKEN, FINE) == {"broken": "failed", "fine": "done"}
    assert "what went wrong" in capsys.readouterr().err
    table = (tmp_path / "out/table.md").read_text()
    assert "| cores | 2 |" in table and "| a table |" in table
    assert "broken: failed, exit status 1" in table
    assert not (tmp_path / "out/broken.json").exists()


def test_what_is_there_is_kept_unless_asked_for_again(run, tmp_path) -> None:
    run(FINE, BROKEN)
    file = tmp_path / "out/fine.json"
    first = file.read_text()
    assert json.loads(first)["figures"] == [1.5]
    assert run(FINE, BROKEN) == {"fine": "kept", "broken": "failed"}
    assert file.read_text() == first
    assert run(FINE, again=True) == {"fine": "done"}
    assert file.read_text() != first


def test_a_folder_holds_figures_of_one_machine_and_command(run, tmp_path) -> None:
    run(FINE)
    folder = tmp_path / "out"
    everything.check(folder, [FINE, BROKEN], {"cores": 2})
    with pytest.raises(ValueError, match="another machine"):
        everything.check(folder, [FINE], {"cores": 4})
    with pytest.raises(ValueError, match=r"another command \(python benchmarks/script.py\)"):
        everything.check(folder, [FINE._replace(options=("--sleep", "0"))], {"cores": 2})


def test_the_budget_leaves_out_and_stops(run) -> None:
    long = FINE._replace(name="long", minutes=5.0)
    endless = FINE._replace(name="endless", options=("--sleep", "60"))
    start = time.monotonic()
    assert run(long, FINE, endless, budget=0.02) == {
        "long": "skipped",
        "fine": "done",
        "endless": "stopped",
    }
    assert time.monotonic() - start < 30
    assert run(long, FINE) == {"long": "done", "fine": "kept"}


@functools.cache
def loaded(script):
    """The module of a benchmark."""
    spec = importlib.util.spec_from_file_location(
        f"benchmark_{script}", BENCHMARKS / f"{script}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Understood(Exception):
    """A script has taken its options; nothing more is wanted of it."""


@pytest.fixture
def understands(monkeypatch):
    """Starts a benchmark as far as its options; the exit status is 2 if it does not know them."""
    parse = argparse.ArgumentParser.parse_args

    def only(self, *given):
        parse(self, *given)
        raise Understood

    def start(script, options) -> None:
        monkeypatch.setattr(sys, "argv", [script, *options])
        with pytest.raises(Understood):
            loaded(script).main()

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only)
    return start


@pytest.mark.parametrize("quick", (False, True))
@pytest.mark.parametrize("backend", ("cpu", "gpu"))
def test_every_script_is_run_and_takes_its_options(backend, quick, understands) -> None:
    found = jobs.every(backend, quick, None)
    assert len({job.name for job in found}) == len(found)
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")}
    not_run = {"measure", "everything", "jobs", "peer_alphanet"}  # the last one needs PyTorch
    not_run |= {"farm"}  # which needs Ray
    # an experiment of an hour, with images and a folder of its own, and its parts
    not_run |= {"fidelity", "fidelity_config", "fidelity_tables", "ranking"}
    not_run |= {"chaos", "saving"}  # of reliability, not of speed
    not_run |= {"voices"}  # makes data
    not_run |= {"platforms"}  # tries versions of Python, which it needs
    # experiments, too: of what searches find, and of what supernets learn
    not_run |= {"differentiable", "ensembles", "few_shot", "nested", "shift"}
    not_run |= {"search"}  # of how few evaluations a search needs; one table needs pymoo
    of_cpu = {"kernels", "scaling", "export", "extraction", "report"}
    not_run |= of_cpu if backend == "gpu" else {"gpu_program"}  # which needs JAX's CUDA plug-in
    assert scripts - {job.script for job in found} == not_run
    for job in found:
        understands(job.script, [*job.options, "--json", "file"])


def documented():
    """The commands that the documents give a benchmark in: scripts, and what follows them."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *BENCHMARKS.glob("*.py")]
    for page in sorted(pages):
        text = re.sub(r"\\\n\s*", " ", page.read_text("utf-8"))  # lines that go on
        text = re.sub(r"(`[^`\n]+)\n([^`\n]+`)", r"\1 \2", text)
        yield from re.findall(r"python benchmarks/(\w+)\.py\b([^`\n]*)", text)


DOCUMENTED = sorted(set(documented()))


@pytest.mark.parametrize("script", sorted({script for script, _ in DOCUMENTED}))
def test_documented_commands_are_understood(script, understands) -> None:
    if script == "peer_alphanet":
        pytest.importorskip("torch", reason="the peer is PyTorch's, which is large")
    assert len(DOCUMENTED) > 100  # they are found
    for options in [rest for name, rest in DOCUMENTED if name == script]:
        words = shlex.split(options.partition(" > ")[0].rstrip(".,;:)"), comments=True)
        understands(script, [word for word in words if word != "..."])


def test_variants_run_what_depends_on_the_compiler_again() -> None:
    found = jobs.every("gpu", False, None)
    both = jobs.with_variants(found, {"default": "", "no-graphs": "--xla_gpu_x="})
    assert [job for job in both if not job.flags] == found
    flagged = [job for job in both if job.flags]
    assert [job.name for job in flagged] == [f"{j.name}-no-graphs" for j in found if j.tuned]
    assert flagged[0].command.startswith("XLA_FLAGS=--xla_gpu_x= python benchmarks/")
    only = jobs.with_variants(found, {"no-graphs": "--xla_gpu_x="})
    assert only == flagged and only


def test_xla_knows_the_options_of_the_variants() -> None:
    flags = " ".join(jobs.VARIANTS.values())  # XLA ends a process that has an unknown one
    code = "import jax; jax.devices()"
    surroundings = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=surroundings, capture_output=True)
    assert done.returncode == 0, done.stderr


PROGRAM = """
%fused_product (p: f32[2,2]) -> f32[2,2] {
  %p = f32[2,2]{1,0} parameter(0)
  ROOT %dot.1 = f32[2,2]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
%fused_sum (p: f32[2,2]) -> f32[2] {
  %p.1 = f32[2,2]{1,0} parameter(0)
  %square = f32[2,2]{1,0} multiply(%p.1, %p.1)
  ROOT %reduce.1 = f32[2]{0} reduce(%square, %p.1), dimensions={0}, to_apply=%add
}
%fused_moves (p: f32[2,2]) -> f32[2,2] {
  %p.2 = f32[2,2]{1,0} parameter(0)
  ROOT %transpose.1 = f32[2,2]{0,1} transpose(%p.2), dimensions={1,0}
}
ENTRY %main (x: f32[2,2]) -> (f32[2,2], f32[2]) {
  %x = f32[2,2]{1,0} parameter(0)
  %a = f32[2,2]{1,0} fusion(%x), kind=kOutput, calls=%fused_product
  %b = f32[2]{0} fusion(%a), kind=kLoop, calls=%fused_sum
  %c = f32[2,2]{0,1} fusion(%a), kind=kLoop, calls=%fused_moves
  %d = (f32[2,2]{1,0}, u8[0]{0}) custom-call(%c, %c), custom_call_target="__cublas$gemm"
  %e = f32[2,2]{1,0} fusion(%c), kind=kLoop, calls=%fused_sum, metadata={op_name="m/depthwise/mul"}
  %f = f32[2,2]{1,0} all-reduce(%e), to_apply=%add
  %g = f32[2,2]{1,0} tanh(%f)
  %w = (f32[2,2]{1,0}) while(%g), condition=%test, body=%body
  ROOT %t = (f32[2,2]{1,0}, f32[2]{0}) tuple(%g, %b)
}
"""


def test_kinds_of_operations() -> None:
    kinds = profile_step.kinds_of(PROGRAM)
    assert {name: kinds.get(name) for name in "abcdefgwt"} == {
        "a": profile_step.MATRIX,
        "b": profile_step.REDUCTION,
        "c": profile_step.COPY,
        "d": profile_step.MATRIX,
        "e": profile_step.DEPTHWISE,
        "f": profile_step.COLLECTIVE,
        "g": profile_step.ELEMENTWISE,
        "w": "",
        "t": None,
    }


def test_shares_are_of_the_operations_of_the_program() -> None:
    times = {"a": (3.0, 2), "d": (1.0, 1), "b": (4.0, 1), "memset": (2.0, 1), "w": (9.0, 1)}
    rows = profile_step.by_kind(times, profile_step.kinds_of(PROGRAM))
    assert [(row["kind"], row["percent"], row["runs"]) for row in rows] == [
        (profile_step.MATRIX, 40.0, 3),
        (profile_step.REDUCTION, 40.0, 1),
        (profile_step.UNKNOWN, 20.0, 1),
    ]


KERNELS = """
%fused_rows (p: bf16[8,4], q: f32[4]) -> f32[4] {
  %p.3 = bf16[8,4]{1,0} parameter(0)
  %flat = bf16[32]{0} bitcast(%p.3)
  %row = bf16[4]{0} slice(%flat), slice={[0:4]}
  %q.3 = f32[4]{0} parameter(1)
  %wide = f32[4]{0} convert(%row)
  ROOT %sum = f32[4]{0} add(%wide, %q.3)
}
%fused_both (p: bf16[8,4]) -> f32[8,4] {
  %p.4 = bf16[8,4]{1,0} parameter(0)
  %row.1 = bf16[1,4]{1,0} slice(%p.4), slice={[0:1], [0:4]}
  ROOT %wide.1 = f32[8,4]{1,0} convert(%p.4)
}
%body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %t = (s32[], f32[4]{0}) parameter(0)
  %v = f32[4]{0} get-tuple-element(%t), index=1
  %n = f32[4]{0} tanh(%v)
  ROOT %next = (s32[], f32[4]{0}) tuple(%v, %n)
}
ENTRY %main (x: bf16[8,4], y: f32[4]) -> f32[4] {
  %x = bf16[8,4]{1,0} parameter(0)
  %y = f32[4]{0} parameter(1)
  %r = f32[4]{0} fusion(%x, %y), kind=kLoop, calls=%fused_rows
  %s = f32[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused_both
  %c = (bf16[8,4]{1,0}, u8[0]{0}) custom-call(%x, %x), custom_call_target="__cudnn$convForward"
  ROOT %w = (s32[], f32[4]{0}) while(%c), condition=%test, body=%body
}
"""


def test_what_kernels_move() -> None:
    lines = gpu_program.computations(KERNELS)
    rows, both, convolution = 8 + 16 + 16, 64 + 128, 64 + 64  # one row of x; all of it; x twice
    assert gpu_program.traffic(lines, "main") == [rows, both, convolution]
    assert gpu_program.traffic(lines, "body") == [32]


def test_tables_are_markdown(capsys) -> None:
    measure.table(["name", "value"], [["a", 1.5], ["long name", 12345]])
    assert capsys.readouterr().out.strip().splitlines() == [
        "| name      |  value |",
        "| --------- | -----: |",
        "| a         |    1.5 |",
        "| long name | 12,345 |",
    ]

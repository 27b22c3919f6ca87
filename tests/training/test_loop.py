"""The training loop: killed, stopped, diverging, and in the end the same to the last bit."""

import contextlib
import functools
import json
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import processes
import pytest
from light_space import CHANNELS, CLASSES, light
from tiny_run import supernet

from supernet_jax import data
from supernet_jax.elastic import code_names
from supernet_jax.errors import UserError
from supernet_jax.runtime import sharding, stopping
from supernet_jax.storage import checkpoint
from supernet_jax.training import loop, recipe, samplers, state_copy, train_step
from supernet_jax.training.job import Job
from supernet_jax.training.losses.loss import cross_entropy
from supernet_jax.training.metrics_log import OnMetrics

STEPS, EVERY = 60, 4  # of the processes' configuration


def lines(folder: pathlib.Path) -> list[dict]:
    """Lines of a run's metrics; a last one that is just being written is left out."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


# --- in processes of their own ---------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return processes.write_config(tmp_path_factory.mktemp("config"))


class Written(NamedTuple):
    """A run that nothing interrupted, and how a second process ended that wanted its folder."""

    folder: pathlib.Path
    writer: int  # the first one's number
    second: tuple[int, str, str]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, config: pathlib.Path) -> Written:
    folder = tmp_path_factory.mktemp("whole") / "run"
    first = processes.start("train", config, "--out", folder)
    assert processes.until(first, lambda: (folder / "writer.lock").exists())
    second = processes.finish(processes.start("train", config, "--out", folder))
    status, out, err = processes.finish(first)
    assert status == 0, err
    assert f"trained {STEPS} steps" in out and str(folder) in out
    return Written(folder, first.pid, second)


@pytest.fixture(scope="module")
def whole(written: Written) -> pathlib.Path:
    """The run that nothing interrupted."""
    return written.folder


def same_as_whole(folder: pathlib.Path, whole: pathlib.Path) -> None:
    processes.same_state(folder, whole, STEPS)
    assert [line["step"] for line in lines(folder)] == list(range(1, STEPS + 1))
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_killed_at_any_moment(
    tmp_path: pathlib.Path, config: pathlib.Path, whole: pathlib.Path
) -> None:
    folder = tmp_path / "run"
    rng = random.Random(0)

    def begun() -> bool:
        return (folder / "config.json").exists()

    def logged() -> Callable[[], bool]:
        """After a few more steps than its last checkpoint had."""
        saved = checkpoint.steps(folder / "checkpoints")
        target = max(saved, default=0) + rng.randint(1, 2 * EVERY)
        return lambda: bool(lines(folder)) and lines(folder)[-1]["step"] >= target

    def saving() -> Callable[[], bool]:
        """While a checkpoint is written that was not there before."""
        return lambda: any("tmp" in path.name for path in (folder / "checkpoints").glob("[0-9]*"))

    kills = 0
    for condition in (begun, logged(), saving(), logged()):
        process = processes.start("train", config, "--out", folder)
        kills += processes.until(process, condition)
        process.kill()
        assert processes.finish(process)[0] in (0, -signal.SIGKILL)
    assert kills >= 3 and len(lines(folder)) < STEPS, "it was too fast to be killed"
    status, _, err = processes.finish(processes.start("train", config, "--out", folder))
    assert status == 0, err
    same_as_whole(folder, whole)


def test_asked_to_stop(tmp_path: pathlib.Path, config: pathlib.Path, whole: pathlib.Path) -> None:
    folder = tmp_path / "run"

    def stopped(number: int, moment: Callable[[], bool]) -> tuple[int, str, str]:
        process = processes.start("train", config, "--out", folder)
        assert processes.until(process, moment)
        process.send_signal(number)
        start = time.monotonic()
        ended = processes.finish(process)
        assert time.monotonic() - start < 10 and "Traceback" not in ended[2]
        return ended

    # While the first step is compiled there is nothing to save.
    status, _, err = stopped(signal.SIGUSR1, lambda: (folder / "metrics.jsonl").exists())
    assert status == 75 and "the same command goes on where it stopped" in err
    assert checkpoint.steps(folder / "checkpoints") == ()
    for number, after in ((signal.SIGTERM, 6), (signal.SIGINT, 15)):
        status, out, err = stopped(number, lambda after=after: len(lines(folder)) >= after)
        assert status == (130 if number == signal.SIGINT else 75), err
        (step,) = checkpoint.steps(folder / "checkpoints")[-1:]
        assert f"stopped at step {step} of {STEPS} and saved; the same command goes on" in out
        assert step == len(lines(folder)) < STEPS
    status, out, err = processes.finish(processes.start("train", config, "--out", folder))
    assert status == 0 and f"trained {STEPS} steps" in out, err
    same_as_whole(folder, whole)


@pytest.mark.slow
def test_any_signals_at_any_moment(
    tmp_path: pathlib.Path, config: pathlib.Path, whole: pathlib.Path
) -> None:
    folder = tmp_path / "run"
    rng = random.Random(1)
    numbers = [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT] * 3
    rng.shuffle(numbers)
    # Until the end of a whole run; the first are met while modules are imported.
    seconds = sorted(rng.uniform(0.05, 8) for _ in numbers[:10])
    for number, wait in zip(numbers, seconds, strict=False):
        process = processes.start("train", config, "--out", folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)
        process.send_signal(number)
        status, _, err = processes.finish(process, timeout=20)
        expected = {signal.SIGKILL: -9, signal.SIGINT: 130}.get(number, 75)
        early = -number if wait < 2 else expected  # before Python itself is ready
        assert status in (0, expected, early), (number, wait, err)
        assert "Traceback" not in err
    status, _, err = processes.finish(processes.start("train", config, "--out", folder))
    assert status == 0, err
    same_as_whole(folder, whole)


def test_a_second_process_is_refused(written: Written) -> None:
    """And does not harm the run, which is the one that interrupted ones must equal."""
    status, _, err = written.second
    assert status == 2
    assert f"is being written by process {written.writer} on " in err and len(err.splitlines()) == 1
    steps = [line["step"] for line in lines(written.folder)]
    assert steps == list(range(1, STEPS + 1))


def test_a_finished_run_stays_as_it_is(
    tmp_path: pathlib.Path,
    config: pathlib.Path,
    whole: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    status, out, err = supernet(capsys, "train", config, "--out", folder, "--devices", 1)
    assert status == 0 and f"trained {STEPS} steps" in out, err
    same_as_whole(folder, whole)


def test_divergence_ends_with_a_clear_message(
    tmp_path: pathlib.Path, config: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--optimizer.learning-rate", "1e30", "--train.checkpoint-every", "1"]
    out = tmp_path / "run"
    status, _, err = supernet(capsys, "train", config, "--out", out, "--devices", 1, *options)
    assert status == 2, err
    line = err.splitlines()[-1]
    assert "Traceback" not in err
    assert line.startswith("supernet: training diverges: 5 steps in a row before step ")
    assert f"after {loop.ROLLBACKS} returns to an earlier checkpoint" in line
    assert "lower --optimizer.learning-rate" in line


# --- in this process, with troubles at chosen steps ------------------------------------------

BATCH, SEED, COUNT = 8, 3, 200  # so the first 25 steps share no image
SPACE = light(dropout=0.2)
BAD, POISON = 255, CLASSES  # marks of a trouble: a pixel, a label


def augment(images: Any, key: Any, ids: Any) -> Any:
    """Not numbers if the whole batch is marked; noise, which depends on the key, otherwise."""
    bad = jnp.all(images[:, 0, 0, 0] == BAD)
    noise = 0.1 * jax.random.normal(key, images.shape)
    return jnp.where(bad, jnp.nan, images.astype(jnp.float32) / 128 - 1 + noise)


def loss(logits: Any, teacher: Any, features: Any, labels: Any, role: str) -> Any:
    """Of a marked batch it looks harmless, but its gradient ruins the parameters."""
    value = cross_entropy(logits, jnp.minimum(labels, CLASSES - 1))
    ruin = jnp.where(jnp.all(labels == POISON), 1e12, 0.0) * jnp.mean(logits @ jnp.arange(5.0))
    return value + ruin - jax.lax.stop_gradient(ruin)


RECIPE = recipe.Recipe(
    space=SPACE,
    sampler=samplers.sandwich(SPACE.menu, n_random=1),
    loss=loss,
    optimizer=optax.sgd(0.02, momentum=0.9),
    augment=augment,
    seed=SEED,
)


def images(bad: Sequence[int], poisonous: Sequence[int]) -> data.Images:
    """Those that make up the batches of these steps are marked. After a rollback the order is
    another one, so that no batch consists of marked images alone.
    """
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 250, (COUNT, 8, 8, CHANNELS), np.uint8)
    labels = rng.integers(0, CLASSES, COUNT, np.int32)
    for step in bad:
        pixels[data.batch_indices(COUNT, BATCH, seed=SEED, step=step), 0, 0, 0] = BAD
    for step in poisonous:
        labels[data.batch_indices(COUNT, BATCH, seed=SEED, step=step)] = POISON
    return data.Images(pixels, labels)


def step_of(trained: recipe.Recipe) -> train_step.Step:
    """A step on one device. It carries nothing from one run to the next, so that several take it:
    compiling it is nearly all of their time.
    """
    return train_step.Step(trained, mesh=sharding.data_mesh(jax.devices()[:1]))


usual = functools.cache(lambda: step_of(RECIPE))


def job(
    folder: pathlib.Path,
    *,
    steps: int = 15,
    log_every: int = 1,
    bad: Sequence[int] = (),
    poisonous: Sequence[int] = (),
    step: train_step.Step | None = None,
    on_metrics: tuple[OnMetrics, ...] = (),
) -> Job:
    """A run with troubles in some steps, counted from 0; by the usual step or another one."""
    folder.mkdir(exist_ok=True)
    step = step or usual()
    return Job(
        recipe=step.recipe,
        step=step,
        examples=images(bad, poisonous),
        second=None if step.recipe.sampler.learn is None else images((), ()),
        steps=steps,
        batch=BATCH,
        mesh=sharding.data_mesh(jax.devices()[:1]),
        checkpoints=checkpoint.Checkpoints(folder / "checkpoints"),
        meta={},
        metrics=folder / "metrics.jsonl",
        checkpoint_every=3,
        log_every=log_every,
        on_metrics=on_metrics,
    )


def run(folder: pathlib.Path, **how: Any) -> recipe.State:
    work = job(folder, **how)
    with work.checkpoints:
        state, finished = loop.fit(work)
    assert finished and int(state.step) == work.steps
    return jax.device_get(state)


def bitwise(a: Any, b: Any) -> bool:
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves)


def test_a_metrics_file_cut_in_a_line(tmp_path: pathlib.Path) -> None:
    whole = run(tmp_path / "whole", steps=12)
    run(tmp_path / "cut", steps=6)
    path = tmp_path / "cut" / "metrics.jsonl"
    with path.open("a") as file:  # a killed process got as far as step 8
        file.write(json.dumps({"step": 7, "rollbacks": 0}) + '\n{"step": 8, "lo')
    assert bitwise(run(tmp_path / "cut", steps=12), whole)
    assert path.read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert [line["step"] for line in lines(tmp_path / "cut")] == list(range(1, 13))


def test_the_copy_that_slow_steps_leave_is_as_good(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = run(tmp_path / "whole", steps=12)
    left: list[stopping.Rescue] = []

    @contextlib.contextmanager
    def rescued(rescue: stopping.Rescue) -> Iterator[None]:
        left.append(rescue)
        yield

    with monkeypatch.context() as patched:
        patched.setattr(state_copy, "COPY_SECONDS", -1.0)
        patched.setattr(stopping, "rescued", rescued)
        run(tmp_path / "cut", steps=5)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "5")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "3")
    (rescue,) = left
    assert rescue.ready()
    work = job(tmp_path / "cut")
    copy = rescue.save.__self__
    copy._job = work  # whose checkpoints are open
    with work.checkpoints:
        rescue.save()
    assert "stopped at step 5 of 15 and saved" in capfd.readouterr().out
    assert checkpoint.steps(tmp_path / "cut" / "checkpoints") == (5,)
    assert bitwise(run(tmp_path / "cut", steps=12), whole)


def test_keys_that_samplers_hold_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_copy, "COPY_SECONDS", -1.0)
    state: Any = {"key": jax.random.key(3), "weights": jnp.ones(2)}
    copy = state_copy.StateCopy(None)  # type: ignore[arg-type]
    copy.after_step(1, state, {})
    assert copy._taken is not None
    held: Any = copy._taken[1]
    assert held["key"] == jax.random.key(3) and isinstance(held["weights"], np.ndarray)


def test_a_copy_of_a_slow_step_is_not_kept_for_quick_ones(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready: list[bool] = []
    seconds = iter([9.0, 0.0, 9.0])  # as of a step that was compiled, a quick and a slow one
    after_step = state_copy.StateCopy.after_step

    def noting(copy: state_copy.StateCopy, *given: Any) -> None:
        after_step(copy, *given)
        ready.append(copy.is_taken())

    monkeypatch.setattr(state_copy.StateCopy, "after_step", noting)
    monkeypatch.setattr(state_copy.StateCopy, "_settle", lambda copy, metrics: next(seconds))
    run(tmp_path / "run", steps=3)
    assert ready == [True, False, True]


def test_goes_back_from_bad_steps_and_takes_another_way(tmp_path: pathlib.Path) -> None:
    bad = [7, 8, 9, 10, 11]
    state = run(tmp_path / "run", bad=bad)
    assert int(state.rollbacks) == 1 and int(state.refused) == 0
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.params))
    seen = lines(tmp_path / "run")
    (event,) = [line for line in seen if line.get("event") == "rollback"]
    assert event == {"event": "rollback", "from": 12, "to": 6, "rollbacks": 1}
    steps = [(line["rollbacks"], line["step"]) for line in seen if "step" in line]
    assert steps == [(0, i) for i in range(1, 13)] + [(1, i) for i in range(7, 16)]
    refused = [line["step"] for line in seen if line.get("applied") == 0]
    assert refused == [8, 9, 10, 11, 12]

    # Killed later, it goes on from there as if it had not been.
    shutil.copytree(tmp_path / "run", tmp_path / "killed")
    for step in (12, 15):
        shutil.rmtree(tmp_path / "killed" / "checkpoints" / str(step))
    assert checkpoint.steps(tmp_path / "killed" / "checkpoints") == (9,)
    assert bitwise(run(tmp_path / "killed", bad=bad), state)
    assert lines(tmp_path / "killed") == seen

    # Killed before it got to a checkpoint of the other way, it finds that way again.
    shutil.rmtree(tmp_path / "killed")
    run(tmp_path / "killed", bad=bad, steps=6)
    (tmp_path / "killed" / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in seen[:14])
    )
    assert bitwise(run(tmp_path / "killed", bad=bad), state)
    assert lines(tmp_path / "killed") == seen


def test_fewer_bad_steps_are_left_out(tmp_path: pathlib.Path) -> None:
    state = run(tmp_path / "run", bad=[4, 6, 7], log_every=10, steps=10)
    assert int(state.rollbacks) == 0
    seen = lines(tmp_path / "run")
    assert [(line.get("event"), line["step"]) for line in seen] == [
        ("refused", 5),
        ("refused", 7),
        ("refused", 8),
        (None, 10),
    ]
    # Not refused at the end of a window is good enough for a checkpoint.
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == (6, 9, 10)


def test_a_checkpoint_that_does_not_help_is_given_up(tmp_path: pathlib.Path) -> None:
    state = run(tmp_path / "run", poisonous=[8])  # what it ruins is saved after step 9
    events = [line for line in lines(tmp_path / "run") if line.get("event") == "rollback"]
    assert [(event["from"], event["to"]) for event in events] == [(14, 9), (14, 6)]
    assert int(state.rollbacks) == 2
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(state.params)) < 100


def test_gives_up_in_the_end(tmp_path: pathlib.Path) -> None:
    always = range(COUNT // BATCH)
    with pytest.raises(UserError, match=r"before step 5 had .* after 0 returns"):
        run(tmp_path / "none", bad=always)
    run(tmp_path / "some", steps=3)
    with pytest.raises(UserError, match=r"before step 8 had .* after 3 returns"):
        run(tmp_path / "some", bad=always)


# --- codes that a sampler learns ---------------------------------------------------------------


def wandering() -> samplers.Sampler:
    """A sampler whose logits go by chance, another way after each rollback."""
    plain = samplers.uniform(SPACE.menu, n_random=1)

    def update(state: Any, key: Any, step: Any, score: Any) -> tuple[Any, Any]:
        del step, score
        noise = jax.random.normal(key, (64,))
        return jax.tree.map(lambda leaf: leaf + noise[: len(leaf)], state), jnp.float32(0)

    return plain._replace(
        init=lambda key: jax.tree.map(lambda choice: jnp.zeros(len(choice)), SPACE.menu),
        sample=lambda state, key, step, score: plain.sample((), key, step, score),
        learn=samplers.Learn(update, lambda state, params: jax.tree.map(jax.nn.softmax, state)),
    )


def test_how_codes_move_is_written_whatever_happens(tmp_path: pathlib.Path) -> None:
    step = step_of(RECIPE._replace(sampler=wandering()))
    how: Any = {"step": step, "bad": [7, 8, 9, 10, 11], "log_every": 2}
    state = run(tmp_path / "run", **how)
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    moved = [line for line in lines(tmp_path / "run") if line.get("event") == "codes"]
    places = [(line["rollbacks"], line["step"]) for line in moved]
    assert places == [(0, i) for i in range(2, 13, 2)] + [(1, i) for i in range(8, 15, 2)]
    last = code_names.named(SPACE, jax.tree.map(jax.nn.softmax, state.sampler))
    assert moved[-1]["codes"].keys() == last.keys() and moved[-1]["codes"] != last  # of step 14
    # A step that is refused teaches nothing; after the rollback codes go another way.
    by_place = dict(zip(places, (line["codes"] for line in moved), strict=True))
    assert by_place[0, 8] == by_place[0, 10] == by_place[0, 12] != by_place[1, 8]

    # Killed later, or before it got to a checkpoint of the other way, the file is the same.
    rows = text.splitlines(keepends=True)
    shutil.copytree(tmp_path / "run", tmp_path / "later")
    for step in (12, 15):
        shutil.rmtree(tmp_path / "later" / "checkpoints" / str(step))
    run(tmp_path / "before", **how, steps=6)
    back = next(i for i, row in enumerate(rows) if '"rollback"' in row)
    for name, kept in (("later", len(rows)), ("before", back + 4)):
        (tmp_path / name / "metrics.jsonl").write_text("".join(rows[:kept]) + rows[0][:9])
        assert bitwise(run(tmp_path / name, **how), state)
        assert (tmp_path / name / "metrics.jsonl").read_text() == text
    # Asked for more steps, it goes on in the same file.
    longer = run(tmp_path / "run", **how, steps=16)
    assert int(longer.step) == 16
    moved = [line for line in lines(tmp_path / "run") if line.get("event") == "codes"]
    whole = code_names.named(SPACE, jax.tree.map(jax.nn.softmax, longer.sampler))
    assert moved[-1]["step"] == 16 and moved[-1]["codes"] == whole

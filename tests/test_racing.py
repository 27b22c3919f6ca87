"""Racing: as often right as it says, exact in the end, and worth it where there is a difference."""

import itertools
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny_run
from tiny_run import CONFIG, supernet

from supernet_jax import evaluate, raced
from supernet_jax.errors import UserError
from supernet_jax.search import front, racing

Capture = pytest.CaptureFixture[str]


def look(right: np.ndarray) -> racing.Look:
    return lambda where, start, end: right[where, start:end]


def run(costs: Any, right: np.ndarray, **settings: Any) -> racing.Raced:
    settings = {"total": right.shape[1], "batch": 20, **settings}
    return racing.race(np.asarray(costs, float), look(right), **settings)


def shuffled(right: np.ndarray, seed: int) -> np.ndarray:
    return right[:, np.random.default_rng(seed).permutation(right.shape[1])]


def answers(scores: Any, images: int, *, common: float, seed: int = 0) -> np.ndarray:
    """Candidates that get right exactly so many images, most of them the same ones.

    Every candidate prefers images by a mean of a common and of its own preference.
    """
    rng = np.random.default_rng(seed)
    ease = common * rng.normal(size=images) + (1 - common) * rng.normal(size=(len(scores), images))
    rank = np.argsort(np.argsort(-ease, axis=1), axis=1)
    return rank < np.asarray(scores)[:, None]


# --- statistics ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_bets_against_a_member_of_the_front_do_not_grow_on_average(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly, over all orders of five images."""
    monkeypatch.setattr(racing, "BLOCK", 1)  # as adaptive as can be
    right = answers([1, 2, 3, 4], 5, common=0.0, seed=seed)  # all members, by a single image
    costs = np.arange(4.0)
    wealth = []
    for order in itertools.permutations(range(5)):
        state, path = racing.begin(costs), []
        for i in order:
            state = racing.watch(state, costs, right[:, [i]], total=5, error=0.05)
            path.append(np.exp(state.wealth))
        wealth.append(path)
    mean = np.mean(wealth, axis=0)  # [images, A, J]
    assert np.all(mean <= 1 + 1e-9)  # float64 sums
    assert np.std(wealth) > 0.02  # bets were made


def skewed() -> np.ndarray:
    """The last loses to each of four rivals on 20 images of its own, and beats all on 21."""
    right = np.zeros((5, 160), bool)
    for rival in range(4):
        right[rival, 20 * rival : 20 * rival + 20] = True
    right[4, 80:101] = True
    return right


# All but `skewed` have everyone on the front by a single image, the hardest case there is.
CLOSE = {
    "alike": answers(range(60, 76), 160, common=0.5),
    "easy": answers(range(144, 160), 160, common=0.8),
    "hard": answers(range(1, 17), 160, common=0.8),
    "skewed": skewed(),
}


@pytest.mark.parametrize("name", CLOSE)
@pytest.mark.parametrize("error", [0.1, 0.5])
def test_wrong_no_more_often_than_stated(name: str, error: float) -> None:
    right, costs, races = CLOSE[name], np.arange(len(CLOSE[name])), 60
    wanted = front.pareto_front(right.sum(1), costs).tolist()
    assert len(wanted) == (2 if name == "skewed" else len(right))
    orders = [shuffled(right, seed) for seed in range(races)]
    found = [run(costs, order, error=error, batch=40).front.tolist() for order in orders]
    assert sum(one != wanted for one in found) <= races * error


def test_the_error_is_spent() -> None:
    """Two candidates, a tie but for one image: no procedure is asked more of."""
    right = answers([100, 101], 200, common=0.2)
    orders = [shuffled(right, seed) for seed in range(150)]
    wrong = [len(run([1, 2], order, error=0.5, batch=40).front) != 2 for order in orders]
    assert 0.1 <= np.mean(wrong) <= 0.5


def test_clear_differences_end_early() -> None:
    """40 candidates 20 % worse than a cheap one, of 10,000 images."""
    right = answers([9_000, *[7_000] * 40], 10_000, common=0.7)
    raced = run(range(41), shuffled(right, 0), batch=100)
    assert raced.front.tolist() == [0]
    assert raced.images[0] == 10_000 and raced.images[1:].max() <= 500
    np.testing.assert_array_equal(raced.right[0], 9_000)
    # A fifth of the difference takes more images, but not all.
    closer = run(range(41), shuffled(answers([9_000, *[8_600] * 40], 10_000, common=0.7), 0))
    assert 500 < np.median(closer.images[1:]) < 5_000


def test_more_images_are_a_smaller_share() -> None:
    shares = []
    for images in (1_000, 8_000):
        right = answers([images // 2] + [images * 45 // 100] * 20, images, common=0.6)
        shares.append(np.mean(run(range(21), shuffled(right, 1)).images[1:]) / images)
    assert shares[1] < shares[0] / 2


@pytest.mark.parametrize("seed", range(8))
def test_all_images_give_the_exact_front(seed: int) -> None:
    """Where nothing is left to doubt, with many ties of accuracy and of cost."""
    rng = np.random.default_rng(seed)
    right = rng.random((30, 40)) < rng.choice([0.4, 0.5, 0.9], (30, 1))
    costs = rng.integers(0, 10, 30)
    raced = run(costs, right, batch=7, error=1e-300)
    wanted = front.pareto_front(right.sum(1), costs)
    assert raced.front.tolist() == wanted.tolist()
    assert np.all(raced.images[wanted] == 40)
    for c in range(30):
        assert raced.right[c] == right[c, : raced.images[c]].sum()


def test_what_can_no_longer_win_drops_out_for_certain() -> None:
    right = np.zeros((3, 100), bool)
    right[0, :50] = True
    right[1, 51:] = True
    # After 50 images the second is 50 behind the first, so that the other 50 would give it a tie:
    # not enough at a higher cost. One image earlier it could win.
    for batch, images in ((50, 50), (49, 98)):
        raced = run([2, 3, 1], right, batch=batch, error=1e-300)
        assert raced.front.tolist() == [2, 0] and raced.images.tolist() == [100, images, 100]
    # Of equal cost, and first, it would stand for both.
    assert run([2, 2], right[[1, 0]], batch=50, error=1e-300).images.tolist() == [100, 100]


def test_the_order_of_candidates_does_not_matter() -> None:
    right = shuffled(answers(np.linspace(300, 420, 40).astype(int), 600, common=0.7), 2)
    costs = np.random.default_rng(0).permutation(40)
    raced = run(costs, right)
    assert len(np.unique(raced.images)) > 3
    order = np.random.default_rng(1).permutation(40)
    again = run(costs[order], right[order])
    np.testing.assert_array_equal(again.images, raced.images[order])
    np.testing.assert_array_equal(order[again.front], raced.front)


def test_rounds() -> None:
    assert racing.rounds(1000, batch=100, growth=1.5) == [100, 200, 300, 500, 800, 1000]
    assert racing.rounds(250, batch=100, growth=1.1) == [100, 200, 250]
    assert racing.rounds(30, batch=100) == [30]


def test_one_candidate_and_wrong_settings() -> None:
    right = np.ones((1, 30), bool)
    assert run([5], right).front.tolist() == [0]
    for error in (0.0, 1.0, np.nan):
        with pytest.raises(UserError, match="above 0 and below 1"):
            run([5], right, error=error)
    with pytest.raises(UserError, match="no candidate"):
        run([], right[:0])


# --- on a run --------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the trained run."""
    return shutil.copytree(tiny_run.trained(tmp_path_factory), tmp_path / "run")


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images of subnets each call scored; a negative last entry stops after so many."""
    counts: list[int] = []
    real: Callable = evaluate.scored

    def counting(how: Any, params: Any, archs: Any, *rest: Any, batches: Any) -> Any:
        if counts and counts[-1] < 0:
            counts[-1] += 1
            if counts[-1] == 0:
                raise KeyboardInterrupt
        for where, scores in real(how, params, archs, *rest, batches=batches):
            counts.insert(0, len(where) * (batches[1] - batches[0]))
            yield where, scores

    monkeypatch.setattr(evaluate, "scored", counting)
    return counts


def command(folder: pathlib.Path, *more: object) -> tuple[object, ...]:
    some = ("--random", 60, "--split", "test")  # all 24 archs, some of them twice
    return ("evaluate", folder, "--config", CONFIG, *some, *more)


def report(folder: pathlib.Path) -> dict[str, Any]:
    (file,) = (folder / "races").glob("*.json")
    return json.loads(file.read_text())


def test_racing_finds_the_front_of_full_evaluation(trained: pathlib.Path, capsys: Capture) -> None:
    full = trained.parent / "full.json"
    assert supernet(capsys, *command(trained, "--out", full)).status == 0
    records = json.loads(full.read_text())
    (trained / "evaluations.jsonl").unlink()
    out = trained.parent / "front.json"
    said = supernet(capsys, *command(trained, "--race", "--out", out))
    assert said.status == 0, said
    keys = np.array([[r["accuracy"], r["macs"]] for r in records])
    wanted = [records[i] for i in front.pareto_front(keys[:, 0], keys[:, 1])]
    found_front = json.loads(out.read_text())
    assert [(r["arch"], r["accuracy"]) for r in found_front] == [
        (r["arch"], r["accuracy"]) for r in wanted
    ]
    whole = records[0]["images"]
    found = report(trained)
    everyone = found["all"]
    assert len(everyone) == found["candidates"] == 24
    assert found["images_seen"] == sum(r["images"] for r in everyone) < 24 * whole
    assert f"{found['images_seen']:,} of {24 * whole:,} images" in said.out
    assert "with probability 0.95 or more" in said.out
    # Only those that saw all images are known to have been evaluated.
    known = [json.loads(line) for line in (trained / "evaluations.jsonl").read_text().splitlines()]
    assert sorted(map(str, known)) == sorted(str(r) for r in everyone if r["images"] == whole)
    assert 0 < len(known) < 24
    by_arch = {str(r["arch"]): r for r in records}
    for r in known:  # the loss is a sum over images in another order
        other = by_arch[str(r["arch"])]
        assert r["loss"] == pytest.approx(other["loss"], abs=2e-6)
        assert r == {**other, "loss": r["loss"]}


def test_an_interrupted_race_goes_on(
    trained: pathlib.Path, images: list[int], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raced, "SAVE_SECONDS", 0.0)
    whole = shutil.copytree(trained, trained.parent / "whole")
    assert supernet(capsys, *command(whole, "--race")).status == 0
    once, images[:] = sum(images), [-9]  # in the second round: six chunks are a round at first
    assert supernet(capsys, *command(trained, "--race")).status == 130
    first = sum(images[:-1])
    assert 0 < first < once
    images[:] = []
    assert supernet(capsys, *command(trained, "--race")).status == 0
    assert first + sum(images) == once
    for name in ("run", "file"):
        assert str(trained) in report(trained)[name]
    strip = {"run": "", "file": ""}
    assert {**report(trained), **strip} == {**report(whole), **strip}
    images[:] = []
    assert supernet(capsys, *command(trained, "--race")).status == 0 and images == []


def test_mistakes(trained: pathlib.Path, capsys: Capture) -> None:
    said = supernet(capsys, *command(trained, "--race", "--race-error", 2))
    assert said.status == 2 and "--race-error is 2.0" in said.err
    folder = trained / "races"
    assert supernet(capsys, *command(trained, "--race")).status == 0
    (book,) = folder.glob("*.npz")
    book.write_bytes(book.read_bytes()[:-40])
    said = supernet(capsys, *command(trained, "--race"))
    assert said.status == 2 and f"{book} is damaged" in said.err

"""Racing: as often right as it says, exact in the end, and worth it where there is a difference."""

import itertools
import json
import math
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
import tiny_space
from tiny_run import CONFIG, supernet

from supernet_jax import searching
from supernet_jax.elastic import choices, notation
from supernet_jax.elastic import space as elastic_space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import evaluate
from supernet_jax.experiment import race as experiment_race
from supernet_jax.searching import Raced, race, racing

Capture = pytest.CaptureFixture[str]


def look(right: np.ndarray) -> racing.Look:
    return lambda where, order, start, end: right[np.ix_(where, order[start:end])]


def run(costs: Any, right: np.ndarray, **settings: Any) -> Raced:
    settings = {"total": right.shape[1], "batch": 20, **settings}
    return race(np.asarray(costs, float), look(right), **settings)


def answers(scores: Any, images: int, *, common: float, seed: int = 0) -> np.ndarray:
    """Candidates that get right exactly so many images, most of them the same ones.

    Every candidate prefers images by a mean of a common and of its own preference.
    """
    rng = np.random.default_rng(seed)
    ease = common * rng.normal(size=images) + (1 - common) * rng.normal(size=(len(scores), images))
    rank = np.argsort(np.argsort(-ease, axis=1), axis=1)
    return rank < np.asarray(scores)[:, None]


# --- statistics ------------------------------------------------------------------------------


def paths(images: int, turn: int, weights: Any) -> Any:
    """All orders of images, each with its probability and the weights by which it was drawn.

    Args:
        images: how many.
        turn: after so many other weights hold, which depend on what was drawn.
        weights: images drawn so far -> weights of all.
    """
    for order in itertools.permutations(range(images)):
        drawn = list(order)
        parts = [(0, turn, weights(())), (turn, images, weights(order[:turn]))]
        probability = 1.0
        for start, end, weight in parts:
            for t in range(start, end):
                probability *= weight[drawn[t]] / weight[drawn[t:]].sum()
        yield np.array(order), probability, parts


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spare", [0, 1])
def test_bets_against_a_true_hypothesis_do_not_grow_on_average(seed: int, spare: int) -> None:
    """Exactly, over all orders of six images; what is expected changes on the way."""
    rng, images, turn = np.random.default_rng(seed), 6, 2
    right = rng.permutation(images) < 2 + seed % 3
    guesses = rng.uniform(0.02, 0.35, (3, images))  # little is expected, so there are bets

    def which(drawn: tuple[int, ...]) -> int:  # the bets adapt to what was seen
        return 1 + int(right[list(drawn)].any()) if drawn else 0

    def weights(drawn: tuple[int, ...]) -> np.ndarray:
        return 0.2 + guesses[which(drawn)] ** 2

    wealth, probabilities = [], []
    for order, probability, parts in paths(images, turn, weights):
        grown = []
        for start, end, weight in parts:
            rest, won = order[start:], right[order[:start]].sum()
            grown.append(
                racing.bets(
                    right[None, order[start:end]],
                    np.array([right.sum() - spare - won]),
                    expected=guesses[[which(tuple(order[:start]))]][:, rest],
                    weight=weight[rest],
                    total=images,
                )
            )
        wealth.append(np.exp(np.cumsum(np.concatenate(grown, 1), 1))[0])
        probabilities.append(probability)
    assert sum(probabilities) == pytest.approx(1)
    mean = np.tensordot(probabilities, wealth, 1)  # [images]
    assert np.all(mean <= 1 + 1e-9)  # float64 sums
    assert spare or np.all(mean >= 1 - 1e-9)  # nothing is given away
    assert np.std(wealth) > 0.02  # bets were made


def test_bets_against_a_false_hypothesis_grow() -> None:
    right = np.random.default_rng(0).permutation(400) < 200
    how: dict[str, Any] = {"expected": np.full((1, 400), 0.5), "weight": np.ones(400), "total": 400}
    grown = racing.bets(right[None], np.array([260.0]), **how)
    assert np.cumsum(grown).max() > 3
    assert not racing.bets(right[None], np.array([-np.inf]), **how).any()  # nothing is demanded


def test_an_order_prefers_images_that_tell() -> None:
    """Twenty scouts get the same images right, but for a few; the others see those late."""
    rng = np.random.default_rng(0)
    easy, hard = np.ones((21, 800), bool), np.zeros((21, 800), bool)
    right = np.concatenate([easy, hard, rng.random((21, 400)) < 0.5], 1)
    state = racing.begin(21, rng.permutation(2000))
    first = state.order[:200]
    state = racing.watch(state, np.arange(21.0), right[:, first])
    state = racing.scouted(state, np.arange(20), right[:20][:, state.order[200:]], rng)
    assert sorted(state.order) == list(range(2000)) and np.array_equal(state.order[:200], first)
    kinds = state.order[200:] // 800  # easy, hard, neither
    easy_at, hard_at, neither_at = (np.mean(np.flatnonzero(kinds == kind)) for kind in range(3))
    assert neither_at + 100 < hard_at < easy_at - 100
    guide = state.guide
    assert guide.expected[:800].max() < 1 and guide.expected[:800].min() > 0.98
    assert guide.expected[800:1600].min() > 0 and guide.expected[800:1600].max() < 0.02


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
    right, costs, races = CLOSE[name], np.arange(len(CLOSE[name])), 200
    wanted = searching.pareto_front(np.stack([right.sum(1), -costs], 1)).tolist()
    assert len(wanted) == (2 if name == "skewed" else len(right))
    settings = {"error": error, "batch": 8}
    found = [run(costs, right, seed=seed, **settings).front.tolist() for seed in range(races)]
    assert sum(one != wanted for one in found) <= races * error


def test_how_much_must_be_bet_depends_on_the_front() -> None:
    """By hand: twenty times as much as there are members, and one more."""
    state = racing.begin(6, np.arange(40))
    right = np.zeros((6, 40), bool)
    for candidate in range(4):  # the front of those that saw all images
        right[candidate, : 10 * (candidate + 1)] = True
    state = racing.noted(state, np.arange(4), np.arange(40), right[:4])
    waiting, costs = np.arange(6) >= 4, np.arange(6.0)

    def left(first: int, wealth: list[float], at: float) -> list[int]:
        logarithms = np.log([*wealth, at * 0.99, at * 1.01])
        now = state._replace(first=np.arange(6) < first, waiting=waiting, wealth=logarithms)
        return racing.left(now, costs, error=0.05).tolist()

    nothing = [1e-9] * 4
    assert left(0, nothing, 100) == [0, 1, 2, 3, 4]  # (4 + 1) / 0.05
    assert left(3, nothing, 40) == [0, 1, 2, 3, 4]  # the first scouts do not count
    assert left(4, nothing, 20) == [0, 1, 2, 3, 4]
    assert left(2, [1e-9, 1e-9, 5, 1000], 35) == [0, 1, 2, 3, 4]  # 20 + (20 - 5) + 0
    assert left(0, nothing, 200) == [0, 1, 2, 3]
    assert left(0, nothing, 50) == [0, 1, 2, 3, 4, 5]


def test_who_has_seen_most_goes_on_first() -> None:
    """Of those that wait, in another order of the images that are left; all others are scouts."""
    rng, right = np.random.default_rng(0), np.zeros((5, 200), bool)
    right[:, :100] = True
    state = racing.begin(5, rng.permutation(200))
    for who, images in ((np.arange(2), 200), (np.arange(2, 3), 40), (np.arange(3, 5), 60)):
        some = state.order[:images]
        state = racing.noted(state, who, some, right[np.ix_(who, some)])
    state = state._replace(waiting=np.arange(5) >= 2)
    again = racing.taken_back(state, np.arange(2, 5), rng)
    assert again.scouts.tolist() == [True, True, False, False, False]
    assert again.racing.tolist() == [3, 4] and again.waiting.tolist()[2] and again.examples == 60
    assert np.array_equal(again.order[:60], state.order[:60])
    assert sorted(again.order) == list(range(200))
    assert not np.array_equal(again.order[60:], state.order[60:])


def test_the_error_is_spent() -> None:
    """Pairs that are a tie but for one image: who is taken for worse is sometimes dropped."""
    right, settings = answers([100, 101], 200, common=0.2), {"error": 0.5, "batch": 8}
    wrong = [len(run([1, 2], right, seed=seed, **settings).front) != 2 for seed in range(150)]
    assert 0.02 <= np.mean(wrong) <= 0.5


def test_clear_differences_end_early() -> None:
    """40 candidates 20 % worse than a cheap one, of 10,000 images."""
    right = answers([9_000, *[7_000] * 40], 10_000, common=0.7)
    raced = run(range(41), right, batch=100)
    assert raced.front.tolist() == [0]
    assert raced.examples[0] == 10_000 and raced.examples[1:].max() <= 500
    np.testing.assert_array_equal(raced.right[0], 9_000)
    # A tenth of the difference takes more images, but not all.
    closer = run(range(41), answers([9_000, *[8_800] * 40], 10_000, common=0.7), batch=100)
    assert 500 < np.median(closer.examples[1:]) < 5_000


def test_accuracies_are_of_all_images() -> None:
    """Whoever drops out saw the hard images first, and is not judged by them alone."""
    scores = np.linspace(7_000, 9_000, 61).astype(int)
    scores -= np.random.default_rng(0).integers(0, 600, 61)
    raced = run(range(61), answers(scores, 10_000, common=0.6), batch=100)
    dropped = raced.examples < 10_000
    assert np.count_nonzero(dropped) > 20
    np.testing.assert_allclose(raced.accuracy[~dropped], scores[~dropped] / 10_000, atol=1e-12)
    off = (raced.accuracy - scores / 10_000)[dropped]
    seen_alone = (raced.right / raced.examples - scores / 10_000)[dropped]
    assert np.sqrt(np.mean(off**2)) < 0.01 < 0.04 < np.sqrt(np.mean(seen_alone**2))


def test_more_images_are_a_smaller_share() -> None:
    shares = []
    for images in (1_000, 8_000):
        right = answers([images // 2] + [images * 45 // 100] * 20, images, common=0.6)
        shares.append(np.mean(run(range(21), right, seed=1).examples[1:]) / images)
    assert shares[1] < shares[0] / 2


@pytest.mark.parametrize("seed", range(8))
def test_all_images_give_the_exact_front(seed: int) -> None:
    """Where nothing is left to doubt, with many ties of accuracy and of cost."""
    rng = np.random.default_rng(seed)
    right = rng.random((30, 40)) < rng.choice([0.4, 0.5, 0.9], (30, 1))
    costs = rng.integers(0, 10, 30)
    raced = run(costs, right, batch=7, error=1e-300)
    wanted = searching.pareto_front(np.stack([right.sum(1), -costs], 1))
    assert raced.front.tolist() == wanted.tolist()
    assert np.all(raced.examples[wanted] == 40)
    for c in range(30):
        assert raced.right[c] <= right[c].sum() and raced.examples[c] <= 40


@pytest.mark.parametrize(
    "costs, images, left",
    [
        # Of 50 images it gets none and a scout all. The other 50 would give it a tie at most:
        # not enough at a higher cost.
        ([1, 2], 49, True),
        ([1, 2], 50, False),
        # Of equal cost, and first, it would stand for both.
        ([2, 2], 50, True),
        ([2, 2], 51, False),
    ],
)
def test_what_can_no_longer_win_drops_out_for_certain(
    costs: list[int], images: int, left: bool
) -> None:
    scout, other = int(costs[0] == costs[1]), int(costs[0] != costs[1])
    right = np.zeros((2, 100), bool)
    right[scout, :50], right[other, 50 + scout :] = True, True
    state = racing.begin(2, np.arange(100))
    state = racing.watch(state, np.array(costs, float), right[:, :images])
    rest, rng = right[[scout], images:], np.random.default_rng(0)
    state = racing.scouted(state, np.array([scout]), rest, rng)
    state = racing.drop(state, np.array(costs, float), math.inf)
    assert state.alive[scout] and state.alive[other] == left


def test_the_order_of_candidates_does_not_matter() -> None:
    right = answers(np.linspace(300, 420, 40).astype(int), 600, common=0.7)
    costs = np.random.default_rng(0).permutation(40)
    raced = run(costs, right)
    assert len(np.unique(raced.examples)) > 3
    order = np.random.default_rng(1).permutation(40)
    again = run(costs[order], right[order])
    np.testing.assert_array_equal(again.examples, raced.examples[order])
    np.testing.assert_array_equal(order[again.front], raced.front)


def test_rounds() -> None:
    assert racing.rounds(1000, batch=100, growth=1.5) == [100, 200, 300, 500, 800, 1000]
    assert racing.rounds(250, batch=100, growth=1.1) == [100, 200, 250]
    assert racing.rounds(30, batch=100) == [30]
    assert racing.rounds(250, batch=100, seen=100) == [200, 250]
    assert racing.rounds(250, batch=100, seen=250) == []


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
    wanted = [records[i] for i in searching.pareto_front(keys * [1, -1])]
    found_front = json.loads(out.read_text())
    assert [(r["arch"], r["accuracy"]) for r in found_front] == [
        (r["arch"], r["accuracy"]) for r in wanted
    ]
    whole = records[0]["images"]
    found = report(trained)
    everyone = found["all"]
    assert len(everyone) == found["candidates"] == 18  # six differ in a skipped block alone
    assert found["images_seen"] == sum(r["images"] for r in everyone) < 18 * whole
    assert f"{found['images_seen']:,} of {18 * whole:,} images" in said.out
    assert "with probability 0.95 or more" in said.out
    # Only those that saw all images are known to have been evaluated.
    known = [json.loads(line) for line in (trained / "evaluations.jsonl").read_text().splitlines()]
    assert sorted(map(str, known)) == sorted(str(r) for r in everyone if r["images"] == whole)
    assert 0 < len(known) < 18
    by_arch = {str(r["arch"]): r for r in records}
    for r in known:  # the loss is a sum over images in another order
        other = by_arch[str(r["arch"])]
        assert r["loss"] == pytest.approx(other["loss"], abs=2e-6)
        assert r == {**other, "loss": r["loss"]}


def test_an_interrupted_race_goes_on(
    trained: pathlib.Path, images: list[int], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        experiment_race, "SAVE_SECONDS", math.inf
    )  # only what interrupts it has it saved
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


def test_the_same_network_races_once() -> None:
    """What is decided for a skipped block makes no other network."""
    space = tiny_space.transforming()
    archs = choices.unstack(choices.sample(space.menu, jax.random.key(0), (60,)))
    found = elastic_space.distinct(space, archs)
    skips = [notation.to_notation(space.menu, arch)["d"] == [1] for arch in archs]
    assert any(skips) and not all(skips)
    built = [
        tuple(block.spec(arch) for block in space.blocks.values())  # None where it is skipped
        for arch in archs
    ]
    assert len(found) == len(set(built)) < len({str(arch) for arch in archs})
    assert found[0] is archs[0]


def test_mistakes(trained: pathlib.Path, capsys: Capture) -> None:
    said = supernet(capsys, *command(trained, "--race", "--race-error", 2))
    assert said.status == 2 and "--race-error is 2.0" in said.err
    folder = trained / "races"
    assert supernet(capsys, *command(trained, "--race")).status == 0
    (book,) = folder.glob("*.npz")
    book.write_bytes(book.read_bytes()[:-40])
    said = supernet(capsys, *command(trained, "--race"))
    assert said.status == 2 and f"{book} is not a book of a race, or was cut short" in said.err
    assert "give it another name, and the race begins anew" in said.err

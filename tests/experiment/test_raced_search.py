"""Races inside a search: the same front from fewer images, and no estimate taken for a score."""

import dataclasses
import json
import pathlib
import shutil
from typing import Any, ClassVar

import jax
import numpy as np
import pytest
import tiny_run
from tiny_run import CONFIG, NETWORKS

import supernet_jax as sj
from supernet_jax.elastic import choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.evaluation import evaluate
from supernet_jax.experiment import race, raced_search
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.run import Run
from supernet_jax.searching import Searcher, SearchState, begin, pareto_front, remember

OPENED: list[Run] = []


@dataclasses.dataclass(frozen=True)
class Everything:
    """Asks for all networks of a space, also beyond the budgets, five at a time; what it was told
    decides in which order.
    """

    name: ClassVar[str] = "everything"

    def build(self, space: Any, costs: Any) -> Searcher:
        every = np.stack(np.meshgrid(*(range(len(c)) for c in jax.tree.leaves(space.menu))), -1)
        archs = choices.unpack(space.menu, every.reshape(-1, every.shape[-1]).astype(np.int32))
        rows = np.unique(choices.pack(elastic_space.normal(space, archs)), axis=0)

        def ask(state: SearchState) -> tuple[Any, SearchState]:
            told = {row.tobytes() for row in state.told.archs}
            left = [row for row in rows if row.tobytes() not in told]
            salt = np.nansum(state.told.scores).tobytes()
            rng = np.random.default_rng(list(salt))
            some = [left[i] for i in rng.permutation(len(left))[:5]]
            return choices.unpack(
                space.menu, np.reshape(some, (-1, rows.shape[1])).astype(int)
            ), state

        return Searcher(lambda key: begin(space.menu, key), ask, remember)


@pytest.fixture
def trained(tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the trained run, whose held-out images come in batches that can be raced."""
    source = tiny_run.trained(tmp_path_factory)
    if not OPENED:
        found = sj.open_run(source, CONFIG)
        how = dataclasses.replace(found.config.evaluation, batch=16, limit=0)
        settings = dataclasses.replace(found.experiment.config, evaluation=how)
        # On one device, where a sum has one order whatever else is evaluated with a subnet.
        mesh = found.experiment.mesh
        mesh = jax.sharding.Mesh(mesh.devices.flat[:1].reshape(1, 1), mesh.axis_names)
        built = found.experiment._replace(config=settings, mesh=mesh)
        OPENED.append(
            found._replace(experiment=built, params=jax.tree.map(np.asarray, found.params))
        )
    return OPENED[0]._replace(folder=shutil.copytree(source, tmp_path / "run"))


def copied(run: Run, name: str) -> Run:
    return run._replace(folder=shutil.copytree(run.folder, run.folder.parent / name))


def lines(run: Run) -> list[dict[str, Any]]:
    path = run.folder / "evaluations.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def without_place(result: Any) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "run"}


def search(run: Run, **how: Any) -> dict[str, Any]:
    how = {"searcher": Everything(), "race": True, "baseline": False, "high": 15_000, **how}
    return without_place(sj.search(run, **how).result)


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of subnets that were scored, call by call; `stop` of the list is called after each."""
    counts: list[int] = []
    real = evaluate.scored

    def counting(how: Any, params: Any, archs: Any, *rest: Any, batches: Any) -> Any:
        for where, scores in real(how, params, archs, *rest, batches=batches):
            counts.append(len(where) * (batches[1] - batches[0]))
            yield where, scores

    monkeypatch.setattr(evaluate, "scored", counting)
    return counts


# --- a race against a front ------------------------------------------------------------------


def planted(seed: int, n: int = 40, total: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Costs, and what candidates get right of images."""
    rng = np.random.default_rng(seed)
    costs = np.sort(rng.integers(0, n, n)).astype(float)
    ability = 0.5 + 0.01 * costs + 0.3 * rng.normal(size=n)
    return costs, ability[:, None] - rng.normal(size=total) + 0.2 * rng.normal(size=(n, total)) > 0


@pytest.mark.parametrize("seed", range(8))
def test_a_race_against_a_front_ends_as_full_evaluation(seed: int) -> None:
    costs, right = planted(seed)
    total, asked = right.shape[1], np.zeros(right.shape, int)
    truth = np.stack([right.sum(1), -costs], 1)
    half = np.random.default_rng(seed).permutation(len(costs))[:20]
    front = half[pareto_front(truth[half])]
    who = np.concatenate([front, np.setdiff1d(np.arange(len(costs)), half)])

    def look(some: np.ndarray, order: np.ndarray, start: int, end: int) -> np.ndarray:
        asked[np.ix_(who[some], order[start:end])] += 1
        return right[np.ix_(who[some], order[start:end])]

    share, seen = raced_search.against(
        len(front), costs[who], look, total=total, batch=20, error=0.01, seed=seed
    )
    np.testing.assert_array_equal(asked.sum(1)[who], seen)
    assert asked.max() == 1 and (seen[: len(front)] == total).all()
    whole = seen == total
    np.testing.assert_array_equal(share[whole], right[who[whole]].mean(1))
    wanted = pareto_front(truth[who])
    assert whole[wanted].all() and not whole.all()
    # No estimate beats what was measured: fronts with and without the dropped ones are the same.
    told = np.stack([share, -costs[who]], 1)
    np.testing.assert_array_equal(truth[who[pareto_front(told)]], truth[who[wanted]])
    assert seen[len(front) :].mean() < 0.5 * total
    assert np.abs(share - right[who].mean(1)).max() < 0.2


# --- on a run --------------------------------------------------------------------------------


def test_the_front_is_that_of_full_evaluation(trained: Run, images: list[int]) -> None:
    plain = copied(trained, "plain")
    full, found = search(plain, race=False), search(trained, race_error=0.01)
    of = {str(one["arch"]): one for one in lines(plain)}
    assert len(of) == NETWORKS
    for one, wanted in zip(found["front"], full["front"], strict=True):
        assert one == {**wanted, "loss": pytest.approx(wanted["loss"], abs=2e-6)}
    # Who saw all images is a record like any other; the others are none.
    measured, raced = lines(trained), found["race"]
    for one in measured:
        wanted = of[str(one["arch"])]
        assert one == {**wanted, "loss": pytest.approx(wanted["loss"], abs=2e-6)}
    dropped = raced["dropped"]
    assert 0 < len(dropped) == NETWORKS - len(measured) == NETWORKS - len(found["all"])
    assert found["evaluations"] == NETWORKS
    assert not {str(one["arch"]) for one in dropped} & {str(one["arch"]) for one in measured}
    whole = measured[0]["images"]
    for one in dropped:
        assert set(one) == {"arch", "macs", "parameters", "estimate", "images"}
        assert 0 < one["images"] < whole and 0 <= one["estimate"] <= 1
        assert abs(one["estimate"] - of[str(one["arch"])]["accuracy"]) < 0.2
    seen = sum(one["images"] for one in dropped) + whole * len(measured)
    assert raced["images_seen"] == seen == sum(images) * 16 - padding(whole, len(measured))
    assert raced["images_of_full_evaluation"] == NETWORKS * whole
    # A search without races, and one that begins with what is known, evaluate what was dropped.
    assert search(trained, race=False)["front"] == found["front"]
    assert len(lines(trained)) == NETWORKS
    said = sj.report(trained).read_text()
    assert "With races" not in said


def padding(whole: int, subnets: int) -> int:
    """Places of last batches that no image fills."""
    return subnets * (-whole % 16)


@pytest.mark.parametrize("after", [4, 9])
def test_a_search_that_was_killed_ends_the_same(
    trained: Run, images: list[int], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The files are those at the moment of the kill: what was not yet written is lost."""
    whole = copied(trained, "whole")
    uninterrupted = search(whole)
    once = len(images)
    assert once > 9
    monkeypatch.setattr(race, "SAVE_SECONDS", 0.0 if after % 2 else np.inf)
    real, killed = evaluate.scored, trained.folder.parent / "killed"

    def then(*given: Any, **how: Any) -> Any:
        yield from real(*given, **how)
        if len(images) - once == after:
            shutil.copytree(trained.folder, killed)
            raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "scored", then)
    with pytest.raises(KeyboardInterrupt):
        search(trained)
    monkeypatch.setattr(evaluate, "scored", real)
    for one in (trained._replace(folder=killed), trained):  # a kill, and an interrupt that saves
        assert search(one) == uninterrupted
        assert lines(one) == lines(whole)
        for path in (whole.folder / "searches").iterdir():
            with np.load(path) as mine, np.load(one.folder / "searches" / path.name) as theirs:
                assert mine.files == theirs.files
                for name in mine.files:
                    np.testing.assert_array_equal(mine[name], theirs[name])
    images.clear()
    assert search(trained) == uninterrupted and images == []  # all of it is known


def test_a_shorter_search_goes_on_and_a_lost_book_is_made_again(
    trained: Run, images: list[int]
) -> None:
    short = search(trained, evaluations=7)
    assert short["evaluations"] == 7
    (book,) = (trained.folder / "searches").glob("*-race.npz")
    book.unlink()
    images.clear()
    found = search(trained)
    assert found["evaluations"] == NETWORKS and sum(images) > 0
    full = search(copied(trained, "plain"), race=False)
    assert [one["arch"] for one in found["front"]] == [one["arch"] for one in full["front"]]


def test_a_search_begins_with_what_is_known(trained: Run) -> None:
    assert search(trained, searcher="random", evaluations=9)["race"]["dropped"]
    measured = len(lines(trained))
    again = search(trained, warm_start=trained.folder / "evaluations.jsonl")
    assert again["warm"] == measured < 9  # none of the dropped ones
    full = search(copied(trained, "plain"), race=False)
    assert [one["arch"] for one in again["front"]] == [one["arch"] for one in full["front"]]
    # Those of its front saw all images once more, such that others race against them.
    assert again["evaluations"] == NETWORKS - measured
    assert again["race"]["calibration_images"] > again["evaluations"] * 16


def test_losses_that_are_no_numbers_are_on_no_front(trained: Run) -> None:
    """Twelve networks have the second block, six have not."""
    bad = jax.tree.map(lambda x: x * np.float32(np.nan), trained.params["second"])
    broken = trained._replace(params={**trained.params, "second": bad})
    none = copied(broken, "none")
    found = search(broken, high=np.inf)
    assert (found["evaluations"], found["not_a_number"]) == (NETWORKS, 12)
    assert found["front"] and all(one["arch"]["depth"] == 0 for one in found["front"])
    for one in found["race"]["dropped"]:
        assert (one["estimate"] is None) == (one["arch"]["depth"] == 1)
    head = jax.tree.map(lambda x: x * np.float32(np.nan), trained.params["head"])
    with pytest.raises(sj.UserError, match="has a loss that is a number"):
        search(none._replace(params={**none.params, "head": head}))


def test_what_cannot_be_raced_is_said(trained: Run) -> None:
    for how, said in (
        ({"objectives": ["accuracy:min", "macs:min"]}, "the objectives are accuracy, macs"),
        ({"objectives": ["loss:min"], "budgets": {}}, "the objectives are loss"),
        ({"budgets": {"macs": (None, 9e3), "parameters": (None, 1e6)}}, "macs, parameters; leave"),
        ({"race_error": 1.0}, "--race-error is 1"),
    ):
        with pytest.raises(sj.UserError, match=said):
            search(trained, **how)
    assert not (trained.folder / "search.json").exists() and lines(trained) == []


def test_the_command_and_the_report_say_what_was_read(
    trained: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment_run, "open_run", lambda *given: trained)
    command = ("search", trained.folder, "--config", CONFIG, "--race", "--searcher", "nsga2")
    said = tiny_run.supernet(capsys, *command, "--searcher.population", 5, "--evaluations", 15)
    assert said.status == 0, said
    result = json.loads((trained.folder / "search.json").read_text())
    page = sj.report(trained.folder).read_text()
    for one in (result["race"], result["random"]["race"]):
        seen, full = (one[f"images_{end}"] for end in ("seen", "of_full_evaluation"))
        sentence = f"{seen:,} of {full:,} images ({seen / full:.1%})"
        assert sentence in said.out and sentence in page
    assert "With races the search read" in page

"""Results of a run: equal networks once, shared by processes, strict JSON, whole or absent."""

import errno
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
import tiny_config
import tiny_run
import tiny_space
from light_space import light
from tiny_run import ARCH, CONFIG, NETWORKS, supernet

from supernet_jax.cli import extract
from supernet_jax.elastic import choices, notation
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.space import Bank, Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs, evaluate
from supernet_jax.experiment import budgets, config, race, results, run
from supernet_jax.experiment.run import Run
from supernet_jax.searching import Budget, Costs, evolution, random_search
from supernet_jax.searching import run as run_search
from supernet_jax.spaces import attentivenas, once_for_all
from supernet_jax.storage import files

Capture = pytest.CaptureFixture[str]


def tiny() -> Space:
    return tiny_config.TinySpace().build(classes=10, input_channels=1)


def banked() -> Space:
    row = choices.Lookup((("width",),), np.asarray([0, 0, 1], np.int32))
    return light(bank=Bank(2, row))


@pytest.fixture
def trained(tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the trained run."""
    return shutil.copytree(tiny_run.trained(tmp_path_factory), tmp_path / "run")


@pytest.fixture
def searched(tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the searched run."""
    return shutil.copytree(tiny_run.searched(tmp_path_factory), tmp_path / "run")


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All runs here are copies of one, which is opened once: so its programs are compiled once."""
    folder = tmp_path_factory.getbasetemp() / "tiny_run"

    def open_run(copy: pathlib.Path, *given: Any, **how: Any) -> Run:
        if not OPENED:
            OPENED.append(OPEN(folder, config.load_file(CONFIG)[1]))
        return OPENED[0]._replace(folder=copy)

    monkeypatch.setattr(run, "open_run", open_run)


OPEN, OPENED = run.open_run, list[Run]()


def opened(folder: pathlib.Path) -> Run:
    return run.open_run(folder)


def strict(text: str) -> Any:
    """JSON without NaN and infinities."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {text[:200]}")

    return json.loads(text, parse_constant=refuse)


def lines(folder: pathlib.Path) -> list[Any]:
    return [strict(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def everything(folder: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- equal networks --------------------------------------------------------------------------

SPACES: dict[str, Callable[[], Space]] = {
    "tiny": tiny,
    "mobilenet": tiny_space.tiny,
    "transforming": tiny_space.transforming,
    "light": light,
    "bank": banked,
    "ofa_small": once_for_all.ofa_small,
    "attentivenas": attentivenas.attentivenas,
}


def what_is_built(space: Space, arch: Any) -> tuple[Any, ...]:
    """All that a network consists of: its resolution, its row of the bank, each block's spec."""
    row = None if space.bank is None else space.bank.row.static(arch)
    specs = tuple(block.spec(arch) for block in space.blocks.values())
    return int(space.which_size(arch)), row, specs


@pytest.mark.parametrize("name", SPACES)
def test_equal_networks_are_equal_archs(name: str) -> None:
    space = SPACES[name]()
    archs = jax.tree.map(np.asarray, choices.sample(space.menu, jax.random.key(0), (300,)))
    normal = elastic_space.normal(space, archs)
    built: dict[Any, bytes] = {}
    for arch, own in zip(choices.unstack(archs), choices.unstack(normal), strict=True):
        assert what_is_built(space, arch) == what_is_built(space, own)
        assert built.setdefault(what_is_built(space, arch), results.key(own)) == results.key(own)
        assert results.key(elastic_space.normal(space, arch)) == results.key(own)  # one by itself
    assert len(set(built.values())) == len(built)
    again = elastic_space.normal(space, normal)
    np.testing.assert_array_equal(choices.pack(again), choices.pack(normal))
    assert np.all(choices.pack(normal) <= choices.pack(archs))


def test_a_skipped_block_decides_nothing() -> None:
    space = once_for_all.ofa_small()
    arch = choices.replace(choices.largest(space.menu), ("d", 1), np.int32(0))  # stage 2: 1 block
    own = notation.to_notation(space.menu, elastic_space.normal(space, arch))
    assert (own["ks"], own["e"]) == ([7, 7, 7, 3, 7, 7], [6, 6, 6, 3, 6, 6])
    assert (own["d"], own["r"]) == ([2, 1, 2], [32])


def same_twice() -> list[Any]:
    """Two archs of one network, and another one."""
    first = {**ARCH, "depth": 0, "kernel": [1, 3]}
    return [first, {**first, "kernel": [1, 1]}, {**first, "kernel": [3, 1]}]


def test_an_equal_network_is_evaluated_and_shown_once(
    trained: pathlib.Path, capsys: Capture
) -> None:
    command = ("--archs", json.dumps(same_twice()))
    out = trained.parent / "out.json"
    said = supernet(capsys, "evaluate", trained, "--config", CONFIG, *command, "--out", out)
    assert said.status == 0 and "2 subnets on 64" in said.out and "3 archs were given" in said.out
    wanted = [same_twice()[1], same_twice()[2]]
    assert [record["arch"] for record in lines(trained)] == wanted
    assert [record["arch"] for record in json.loads(out.read_text())] == wanted
    said = supernet(capsys, "info", CONFIG, *command, "--json")
    assert [row["arch"] for row in json.loads(said.out)] == same_twice()  # as they were given
    wanted = extract.Arguments(trained, trained.parent / "out", arch=command[1])
    assert len(extract._archs(opened(trained), wanted)) == 2


def test_records_of_before_are_known_whatever_their_archs(
    trained: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines of a version that told apart archs of one network."""
    command = ("evaluate", trained, "--config", CONFIG, "--archs", json.dumps(same_twice()))
    first = supernet(capsys, *command)
    path = trained / "evaluations.jsonl"
    old = path.read_text().replace('"kernel": [1, 1]', '"kernel": [1, 3]')
    assert old != path.read_text()
    path.write_text(old)
    monkeypatch.setattr(evaluate, "evaluate", None)  # nothing is left to compute
    assert supernet(capsys, *command).out == first.out
    assert path.read_text() == old


@pytest.mark.parametrize("algorithm", ["random", "evolution"])
def test_a_search_asks_for_no_network_twice(algorithm: str) -> None:
    space = tiny()
    cost = costs.macs(space)
    priced = Costs((cost,), (Budget(0, np.inf),))
    how: dict[str, Any] = {"normal": lambda archs: elastic_space.normal(space, archs)}
    searcher = (
        random_search(space.menu, priced, batch=5, **how)
        if algorithm == "random"
        else evolution(space.menu, priced, step=500, population=5, mutations=3, crossovers=2, **how)
    )
    score = lambda archs: -np.asarray(cost(archs))  # noqa: E731
    key = jax.random.key(0)
    found = run_search(searcher, score, costs=priced, key=key, evaluations=99)
    networks = choices.pack(elastic_space.normal(space, choices.unpack(space.menu, found.archs)))
    assert len(found.archs) == len(np.unique(networks, axis=0)) == NETWORKS
    assert not np.array_equal(networks, found.archs)  # what skipped blocks would be is inherited


# --- several processes -----------------------------------------------------------------------


def all_archs(space: Space) -> list[Any]:
    rows = itertools.product(*(range(len(c)) for c in jax.tree.leaves(space.menu)))
    archs = [choices.unpack(space.menu, np.asarray(row, np.int32)) for row in rows]
    return elastic_space.distinct(space, archs)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Archs, noted one after the other rather than evaluated; the first entry is called then.

    All get 16 of 64 images right.
    """
    done: list[Any] = []

    def pretended(how: Any, params: Any, archs: Any, data: Any, *, wanted: Any) -> Iterator:
        rest = np.arange(len(jax.tree.leaves(archs)[0]))
        while len(rest := wanted(rest)):
            where, rest = np.split(rest, [1])
            done.append(jax.tree.map(lambda leaf, i=where[0]: leaf[i], archs))
            done[0]()
            yield where, evaluate.Result(np.array([0.25]), np.ones(1, np.float32), 64)

    monkeypatch.setattr(evaluate, "evaluate", pretended)
    return done


def test_what_others_evaluate_meanwhile_is_taken_over(
    trained: pathlib.Path, computed: list[Any]
) -> None:
    archs = all_archs(opened(trained).experiment.space)
    other, mine = (results.Scorer(opened(trained), "held-out", what="") for _ in range(2))

    def then() -> None:
        if len(computed) == 4:  # while the third was evaluated
            other.add(archs[5:15], np.full(10, 0.5), np.full(10, 2.0))

    computed.append(then)
    records = mine(archs)
    assert [r["accuracy"] for r in records] == [0.25] * 5 + [0.5] * 10 + [0.25] * 3
    assert len(computed) - 1 == NETWORKS - 10
    assert len(lines(trained)) == NETWORKS == len({str(r["arch"]) for r in lines(trained)})


@pytest.mark.parametrize("seed", range(3))
def test_two_that_do_the_same_share_the_work(
    trained: pathlib.Path, computed: list[Any], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process in the same order, always a moment earlier."""
    real = np.random.default_rng  # where the own process goes on is random
    monkeypatch.setattr(np.random, "default_rng", lambda *given: real(*given or (seed,)))
    archs = all_archs(opened(trained).experiment.space)
    other, mine = (results.Scorer(opened(trained), "held-out", what="") for _ in range(2))
    order = iter(archs)

    def then() -> None:
        other._catch_up()
        for arch in order:
            if results.key(arch) not in other._known:
                other.add([arch], np.full(1, 0.5), np.ones(1))
                return

    computed.append(then)
    mine(archs)
    assert len(lines(trained)) == NETWORKS  # each once
    assert len(computed) - 1 < NETWORKS * 5 / 6  # in lockstep it would be all of them


def test_books_of_two_processes_become_one(
    trained: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(trained)
    archs, file = all_archs(run.experiment.space), trained / "races" / "book.npz"
    one, two = (race.Book(run, "held-out", archs, file=file) for _ in range(2))
    rng = np.random.default_rng(0)
    right, loss = rng.random((NETWORKS, 64)) < 0.5, rng.random((NETWORKS, 64))

    def note(book: race.Book, who: int, images: range) -> None:
        some = np.asarray(images)
        book._note(np.array([who]), some, right[[who]][:, some], loss[[who]][:, some])
        book._news = True

    note(one, 0, range(64))  # known to one alone
    note(two, 1, range(64))
    note(one, 2, range(30))  # halves of the same
    note(two, 2, range(30, 64))
    note(one, 3, range(20))  # more of the same
    note(two, 3, range(64))
    note(one, 4, range(40))  # some images twice
    note(two, 4, range(20, 64))
    one.save()
    two.save()
    for book in (two, race.Book(run, "held-out", archs, file=file)):
        known = book.answers.known
        assert known[:5].all() and not known[5:].any()
        np.testing.assert_array_equal(book.answers.right[:5], right[:5])
        mean = book.mean_loss()
        np.testing.assert_allclose(mean[:4], loss[:4].mean(1), rtol=1e-6)  # float32
        assert np.isnan(mean[4:]).all()  # not summed twice, hence not known
        assert not book.broken().any()
    note(one, 5, range(64))
    one.save()
    assert one.answers.known[:6].all()


def test_a_book_of_before_is_gone_on_with(trained: pathlib.Path) -> None:
    """It does not say of how many images losses are."""
    run = opened(trained)
    archs, file = all_archs(run.experiment.space), trained / "races" / "book.npz"
    book = race.Book(run, "held-out", archs, file=file)
    some = np.arange(64)
    book._note(np.array([3]), some, np.ones((1, 64), bool), np.full((1, 64), 0.5))
    book._news = True
    book.save()
    with np.load(file) as archive:
        old = {name: archive[name] for name in archive.files if name != "summed"}
    np.savez(file, **old)
    again = race.Book(run, "held-out", archs, file=file)
    assert again.mean_loss()[3] == 0.5 and np.isnan(again.mean_loss()[:3]).all()


def test_answers_that_are_cut_off_anywhere_are_not_wrong(trained: pathlib.Path) -> None:
    """As by a signal between any two of the arrays."""
    run = opened(trained)
    archs, images = all_archs(run.experiment.space), np.arange(64)
    for after in range(4):
        book = race.Book(run, "held-out", archs)
        written = []

        class Cut(np.ndarray):
            def __setitem__(self, where: Any, value: Any, written: list = written) -> None:
                if len(written) == after:  # noqa: B023
                    raise KeyboardInterrupt
                written.append(where)
                super().__setitem__(where, value)

        book.answers = race.Answers(*(column.view(Cut) for column in book.answers))
        with pytest.raises(KeyboardInterrupt):
            book._note(np.array([3]), images, np.ones((1, 64), bool), np.full((1, 64), 0.5))
        book.answers = race.Answers(*(np.asarray(column) for column in book.answers))
        assert np.isnan(book.mean_loss()).all()
        if book.answers.known[3].any():
            assert book.answers.right[3].all()


# --- numbers that are none -------------------------------------------------------------------


def poisoned(monkeypatch: pytest.MonkeyPatch, blocks: tuple[str, ...]) -> None:
    """Every run that is opened has NaN for the weights of these blocks."""
    real = run.open_run

    def open_run(*given: Any, **how: Any) -> Run:
        run = real(*given, **how)
        bad = {b: jax.tree.map(lambda x: x * np.float32(np.nan), run.params[b]) for b in blocks}
        return run._replace(params={**run.params, **bad})

    monkeypatch.setattr(run, "open_run", open_run)


def exhaustive(option: str) -> tuple[object, ...]:
    first = "--searcher.population" if option == "evolution" else "--searcher.batch"
    return ("--evaluations", 99, first, 18, "--searcher", option)


def test_who_has_no_number_is_on_no_front(
    trained: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve networks have the second block, six have not."""
    poisoned(monkeypatch, ("second",))
    said = supernet(capsys, "search", trained, "--config", CONFIG, *exhaustive("evolution"))
    assert said.status == 0, said
    assert "the loss of 12 of them is not a number; they are on no front" in said.out
    result = strict((trained / "search.json").read_text())
    assert (result["evaluations"], result["not_a_number"]) == (18, 12)
    assert all(entry["arch"]["depth"] == 0 for entry in result["front"]) and result["front"]
    assert sum(accuracy is None for _, accuracy in result["all"]) == 12
    for record in lines(trained):
        assert (record["loss"] is None) == (record["arch"]["depth"] == 1)
        assert record["loss"] is not None or record["accuracy"] == 0.0
    out = trained.parent / "out.json"
    command = ("evaluate", trained, "--config", CONFIG, "--random", 60, "--out", out)
    said = supernet(capsys, *command)
    assert said.status == 0 and "the loss of 12 of them is not a number" in said.out
    assert len(strict(out.read_text())) == 18
    best = max(r["accuracy"] for r in lines(trained) if r["loss"] is not None)
    assert f"best {best:.2%}" in said.out
    (trained / "evaluations.jsonl").unlink()
    said = supernet(capsys, *command[:-2], "--race", "--split", "test")
    assert said.status == 0 and "the loss of 12 of them is not a number" in said.out
    (file,) = (trained / "races").glob("*.json")
    race = strict(file.read_text())
    assert race["not_a_number"] == 12 and race["front"]
    assert all(entry["arch"]["depth"] == 0 for entry in race["front"])


@pytest.mark.parametrize("command", ["search", "evaluate", "race"])
def test_no_number_at_all_is_said(
    command: str, trained: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, ("head",))
    more = exhaustive("evolution") if command == "search" else ("--random", 9)
    name, race = ("evaluate", ("--race",)) if command == "race" else (command, ())
    said = supernet(capsys, name, trained, "--config", CONFIG, *more, *race)
    assert said.status == 2 and "has a loss that is a number, so none is best" in said.err
    assert said.err.count("supernet: ") == 1
    assert not (trained / "search.json").exists() and not (trained / "front.png").exists()
    assert all(record["loss"] is None for record in lines(trained))


def test_a_line_with_nan_is_read(searched: pathlib.Path, capsys: Capture) -> None:
    """As older versions wrote it."""
    path = searched / "evaluations.jsonl"
    first, *rest = path.read_text().splitlines()
    record = json.loads(first)
    path.write_text("\n".join([json.dumps({**record, "loss": float("nan")}), *rest, ""]))
    command = ("evaluate", searched, "--config", CONFIG, "--archs", json.dumps(record["arch"]))
    said = supernet(capsys, *command)
    assert said.status == 2 and "has a loss that is a number" in said.err
    assert "not a number" in said.out


def test_damaged_lines_are_told_and_left(searched: pathlib.Path, capsys: Capture) -> None:
    path = searched / "evaluations.jsonl"
    whole = path.read_text().splitlines()
    path.write_text("\n".join([*whole[:2], whole[2][:40] + whole[3], "[]", *whole[4:], ""]))
    before = path.read_text()
    archs = json.dumps([json.loads(line)["arch"] for line in whole])
    said = supernet(capsys, "evaluate", searched, "--config", CONFIG, "--archs", archs)
    assert said.status == 0
    assert f"{path} has damaged lines (2, the first is line 3); they stay as they are" in said.err
    assert path.read_text().startswith(before)
    again = [json.loads(line) for line in path.read_text()[len(before) :].splitlines()]
    assert sorted(map(str, again)) == sorted(str(json.loads(line)) for line in whole[2:4])


# --- numbers as bounds -----------------------------------------------------------------------


def test_what_is_printed_can_be_a_bound(
    searched: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Milliseconds, with as many digits as a measurement makes of them."""
    space = tiny()
    third = lambda arch: np.round(np.asarray(costs.macs(space)(arch)) / 3e5, 6)  # noqa: E731
    spent = ("latency", "ms", third, {"latency_table": {"file": "", "measured": ""}}, None)
    monkeypatch.setattr(budgets, "_cost", lambda *given: spent)
    command = ("search", searched, "--config", CONFIG, "--cost", "latency:x")
    said = supernet(capsys, *command, *exhaustive("random"))
    assert said.status == 0, said
    front = json.loads((searched / "search.json").read_text())["front"]
    shown = [line.split()[1] for line in said.out.splitlines() if line.startswith(" front:")]
    assert len(shown) == len(front) > 1
    for text, entry in zip(shown, front, strict=True):
        assert float(text) == entry["latency"]
        said = supernet(capsys, *command, *exhaustive("random"), "--low", text, "--high", text)
        assert said.status == 0, said
        again = json.loads((searched / "search.json").read_text())["front"]
        assert entry in again


def test_messages_have_all_digits_of_a_cost() -> None:
    budget = Budget(12_345_678_901, 0.105812 + 12_345_678_901, "MACs")
    assert str(Budget(12_345_678_901, 12_345_678_902)) == "12,345,678,901 to 12,345,678,902"
    assert budget.allows(np.asarray(12_345_678_901.0))


# --- failures --------------------------------------------------------------------------------


def full(monkeypatch: pytest.MonkeyPatch, *ends: str) -> None:
    """A disk without room for files whose names end so, or all of them."""
    real_write, real_fsync = os.write, os.fsync

    def refused(number: int) -> bool:
        name = os.readlink(f"/proc/self/fd/{number}").removesuffix(".unfinished")
        return any(end in pathlib.Path(name).name for end in ends)

    def write(number: int, content: bytes) -> int:
        if refused(number):
            if len(content) < 8:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real_write(number, content[:7])
        return real_write(number, content)

    def fsync(number: int) -> None:
        if refused(number):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_fsync(number)

    monkeypatch.setattr(files.os, "write", write)
    monkeypatch.setattr(files.os, "fsync", fsync)


FULL = [
    ("search", "evaluations.jsonl", exhaustive("random")),
    ("search", "search.json", exhaustive("random")),
    ("search", "front.png", exhaustive("random")),
    ("search", ".npz", exhaustive("random")),
    ("evaluate", "evaluations.jsonl", ("--random", 9)),
    ("evaluate", "out.json", ("--random", 9, "--out", "OUT")),
    ("evaluate", ".npz", ("--random", 9, "--race")),
    ("evaluate", ".json", ("--random", 9, "--race")),
    ("table", "out.json", ("--samples", 50, "--out", "OUT")),
]


@pytest.mark.parametrize(("command", "end", "more"), FULL)
def test_a_full_disk(
    command: str,
    end: str,
    more: tuple[object, ...],
    trained: pathlib.Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = (CONFIG,) if command == "table" else (trained, "--config", CONFIG)
    out = trained.parent / "out.json"
    arguments = (command, *run, *(out if part == "OUT" else part for part in more))
    with monkeypatch.context() as patch:
        full(patch, end)
        said = supernet(capsys, *arguments)
    assert said.status == 2, said
    message = [line for line in said.err.splitlines() if line.startswith("supernet: ")]
    assert len(message) == 1 and "No space left on device" in message[0], said
    assert "free space there and start the same command again" in message[0]
    assert not out.exists() and "Traceback" not in said.err
    assert not [name for name in everything(trained.parent) if "unfinished" in name]
    kept = trained / "evaluations.jsonl"
    assert not kept.exists() or kept.read_text()[-1:] in ("\n", "")
    said = supernet(capsys, *arguments)  # there is room again
    assert said.status == 0, said


@pytest.fixture
def read_only(trained: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A run that this user cannot write to; tests may run as root, who always can."""
    real = files.is_writable
    monkeypatch.setattr(
        files, "is_writable", lambda path: trained not in (path, *path.parents) and real(path)
    )
    return trained


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("evaluate", ("--random", 9)),
        ("evaluate", ("--random", 9, "--race")),
        ("search", exhaustive("random")),
    ],
)
def test_results_of_a_run_that_cannot_be_written_to(
    command: str, more: tuple[object, ...], read_only: pathlib.Path, capsys: Capture
) -> None:
    before = everything(read_only)
    arguments = (command, read_only, "--config", CONFIG, *more)
    said = supernet(capsys, *arguments)
    assert said.status == 2 and said.err.count("\n") == 1
    assert f"cannot write to {read_only}" in said.err and "give --out FILE" in said.err
    out = read_only.parent / "found.json"
    said = supernet(capsys, *arguments, "--out", out)
    assert said.status == 0, said
    assert f"no record is kept there: results are in {out} alone" in said.err
    found = strict(out.read_text())
    assert found and everything(read_only) == before
    if command == "search":
        assert out.with_suffix(".png").exists()
        archs = ("--archs", out, "--out", read_only.parent / "again.json")
        said = supernet(capsys, "evaluate", read_only, "--config", CONFIG, *archs)
        assert said.status == 0
        assert json.loads((read_only.parent / "again.json").read_text()) == found["front"]


def test_what_a_read_only_run_knows_is_shown(
    searched: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "is_writable", lambda path: False)
    for more in (("--front",), ("--random", 9)):
        said = supernet(capsys, "evaluate", searched, "--config", CONFIG, *more)
        assert (said.status, said.err) == (0, "")


def test_a_search_elsewhere_leaves_the_last_one(searched: pathlib.Path, capsys: Capture) -> None:
    before = {n: (searched / n).read_bytes() for n in ("search.json", "front.png")}
    out = searched.parent / "small.json"
    command = ("search", searched, "--config", CONFIG, *exhaustive("random"), "--high", 5000)
    said = supernet(capsys, *command, "--out", out)
    assert said.status == 0 and f"wrote {out} and {out.with_suffix('.png')}" in said.out
    result = json.loads(out.read_text())
    assert max(spent for spent, _ in result["all"]) <= 5000
    assert before == {n: (searched / n).read_bytes() for n in before}
    for place, words in (
        (out, "exists already"),
        (out.with_suffix(".txt"), "end it in .json"),
        (searched.parent / "no" / "a.json", "no folder"),
    ):
        said = supernet(capsys, *command, "--out", place)
        assert said.status == 2 and words in said.err and said.err.count("\n") == 1


def test_no_message_advises_to_delete(searched: pathlib.Path, capsys: Capture) -> None:
    """What could not be read, or is not ours, may be whole."""
    (state,) = (searched / "searches").iterdir()
    table = searched.parent / "macs.json"
    commands = {
        searched / "search.json": ("evaluate", "--front"),
        state: ("search", "--searcher", "random"),
        table: ("search", "--cost", f"latency:{table}"),
        searched / "archs.json": ("evaluate", "--archs", searched / "archs.json"),
    }
    for path, (name, *more) in commands.items():
        for content in (b"", b"{", b"\xff\xfe", b"PK\x03\x04"):
            path.write_bytes(content)
            said = supernet(capsys, name, searched, "--config", CONFIG, *more)
            assert said.status == 2 and said.err.count("\n") == 1 and str(path) in said.err, said
            assert "cut short" in said.err or "not valid JSON" in said.err
            assert not {"remove", "delete"} & set(said.err.split()), said.err
            assert path.read_bytes() == content


@pytest.mark.parametrize("ends", ["..5", 5, (1, 2, 3), (None, "5"), None])
def test_a_budget_in_python_is_a_pair(ends: Any) -> None:
    with pytest.raises(UserError, match=r"the budget of macs is .*; give the least and the most"):
        budgets.goal(tiny(), {"macs": ends})


def test_budgets_of_costs_below_zero() -> None:
    wanted = budgets.goal(tiny(), {"macs": (-5, -1)})
    assert [(one.low, one.high) for one in wanted.priced] == [(-5, -1)]
    goal = budgets.goal(tiny(), {"macs": (-np.inf, np.inf)}, "accuracy:max")
    assert [(one.low, one.high, one.aim) for one in goal.priced] == [(None, None, 0)]

"""Text: its windows, its parts, and what is said of text that will not do."""

import pathlib

import numpy as np
import pytest

from supernet_jax import data
from supernet_jax.data import text
from supernet_jax.errors import UserError

HOW = {"held_out": 0.3, "seed": 0, "length": 8}


def folder(place: pathlib.Path, count: int = 40) -> pathlib.Path:
    """Files of different lengths, some in a folder of their own, and one that is hidden."""
    for i in range(count):
        file = place / "texts" / ("more" if i % 3 else ".") / f"{i}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"{i} says é {'x' * i}\n".encode())
    (place / "texts" / ".hidden").write_bytes(b"\xff")
    return place / "texts"


def stream(part: data.Images) -> bytes:
    """All that the documents of a part make, written down by hand."""
    assert isinstance(part.images, text.Windows)
    contents = [
        d.path.read_bytes()[d.start : d.start + d.size] + b"\0" for d in part.images.documents
    ]
    return b"".join(contents)


def parts(d: data.Dataset) -> dict[str, data.Images]:
    return {"train": d.train, "held-out": d.held_out, "test": d.test}


def names(part: data.Images) -> set[str]:
    assert isinstance(part.images, text.Windows)
    return {document.name for document in part.images.documents}


def test_windows_are_the_stream_and_targets_what_follows(tmp_path: pathlib.Path) -> None:
    d = data.load(f"text:{folder(tmp_path)}", **HOW)
    assert d.tokens == (256, 8) and d.class_names == ()
    for part in (d.train, d.test):
        whole = np.frombuffer(stream(part), np.uint8)
        count = (len(whole) - 1) // 8
        assert part.images.shape == part.labels.shape == (count, 8)
        np.testing.assert_array_equal(part.images[:], whole[: 8 * count].reshape(-1, 8))
        np.testing.assert_array_equal(part.labels[:], whole[1 : 8 * count + 1].reshape(-1, 8))
        some = np.array([3, 0, 3])
        np.testing.assert_array_equal(part.images[some], part.images[:][some])
        assert part.images[:].dtype == np.uint8 and part.labels[:].dtype == np.int32
    order = d.held_out.images.places
    assert sorted(order) == list(range(len(order))) != list(order)


def test_parts_are_of_files_and_the_test_part_of_no_seed(tmp_path: pathlib.Path) -> None:
    place = folder(tmp_path)
    a, b = (data.load(f"text:{place}", **{**HOW, "seed": seed}) for seed in (0, 1))
    for d in (a, b):
        own = [names(part) for part in parts(d).values()]
        assert sum(map(len, own)) == len(set.union(*own)) == 40
    assert names(a.test) == names(b.test) and names(a.held_out) != names(b.held_out)
    assert a.fingerprint != b.fingerprint
    again = data.load(f"text:{place}", **HOW)
    assert again.fingerprint == a.fingerprint
    np.testing.assert_array_equal(again.held_out.images[:], a.held_out.images[:])
    before = {name: names(part) for name, part in parts(a).items()}
    (place / "later.txt").write_bytes(b"this came later, and is longer\n")
    later = data.load(f"text:{place}", **HOW)
    assert later.fingerprint != a.fingerprint
    for name, part in parts(later).items():  # what was there has not moved
        assert names(part) - {"later.txt"} == before[name]


def test_a_file_alone_is_cut_at_ends_of_lines(tmp_path: pathlib.Path) -> None:
    lines = "".join(f"line {i} é\n" for i in range(40_000))
    (tmp_path / "one.txt").write_bytes(lines.encode())
    d = data.load("text:one.txt", data_dir=str(tmp_path), **HOW)
    documents = sorted(
        (document for part in parts(d).values() for document in part.images.documents),
        key=lambda document: document.start,
    )
    ends = [document.start + document.size for document in documents]
    assert [0, *ends] == [*(document.start for document in documents), len(lines.encode())]
    assert all(lines.encode()[end - 1 : end] == b"\n" for end in ends)
    assert min(len(part.labels) for part in parts(d).values()) > 1000


def test_the_standard_library_is_text() -> None:
    d = data.load("source:stdlib", held_out=0.1, seed=0)
    assert d.train.images.shape[1] == text.LENGTH and len(d.train.labels) > 10_000
    own = set.union(*(names(part) for part in parts(d).values()))
    assert {"dataclasses.py", "json/decoder.py"} <= own
    assert not any(text.NO_SOURCES & set(name.split("/")) for name in own)


def test_batches_of_training_and_evaluation(tmp_path: pathlib.Path) -> None:
    d = data.load(f"text:{folder(tmp_path)}", **HOW)
    feeds = [data.feed(d.train, 5, seed=3, start=start, stop=4) for start in (0, 2)]
    batches, later = map(list, feeds)
    for one, same in zip(batches[2:], later, strict=True):
        np.testing.assert_array_equal(one.images, same.images)
    ids = batches[0].ids
    np.testing.assert_array_equal(batches[0].images, d.train.images[:][ids])
    np.testing.assert_array_equal(batches[0].labels, d.train.labels[:][ids])
    n = len(d.test.labels)
    inputs, targets = data.padded_batches(d.test, 7)
    assert inputs.shape == targets.shape == (-(-n // 7), 7, 8)
    np.testing.assert_array_equal(inputs.reshape(-1, 8)[:n], d.test.images[:])
    np.testing.assert_array_equal(targets.reshape(-1, 8)[:n], d.test.labels[:])
    assert (targets.reshape(-1, 8)[n:] == -1).all()
    drawn = data.calibration_subset(d.train, batches=2, batch=4, seed=0)
    assert drawn.shape == (2, 4, 8)
    moved = data.shuffled(d.test, seed=1)
    assert sorted(moved.images.places) == list(range(n)) != list(moved.images.places)
    np.testing.assert_array_equal(moved.images.places, moved.labels.places)


@pytest.mark.parametrize(
    ("content", "how", "said"),
    [
        ({"a.txt": b"good\nba\xffd"}, {}, r"a.txt is not UTF-8 text: byte 7 is wrong"),
        ({"a.txt": b"cut \xc3"}, {}, r"a.txt is not UTF-8 text: byte 4 is wrong"),
        (
            {"a.txt": b"x" * (text.READ - 1) + "é".encode() + b"\xff"},
            {},
            r"byte 1,048,577 is wrong",
        ),
        ({"a.txt": b"text", "b.txt": b""}, {}, r"b.txt is empty"),
        ({}, {}, "has no text"),
        ({"a.txt": b"text"}, {}, "too little text for a split: of 1 documents none falls"),
        ({f"{i}": b"text" for i in range(40)}, {"length": 500}, "too little text for one window"),
        ({"a.txt": b"text"}, {"held_out": 5}, "held_out is 5, but text is split by file"),
        ({"a.txt": b"text"}, {"length": 0}, "give a length of at least 1"),
    ],
)
def test_text_that_will_not_do(
    tmp_path: pathlib.Path, content: dict[str, bytes], how: dict, said: str
) -> None:
    for name, value in content.items():
        (tmp_path / name).write_bytes(value)
    with pytest.raises(UserError, match=said) as error:
        data.load(f"text:{tmp_path}", **{**HOW, **how})
    assert "\n" not in str(error.value)


def test_names_that_are_no_text(tmp_path: pathlib.Path) -> None:
    for name, said in (
        (f"text:{tmp_path}/none", "there is no file or folder"),
        ("source:perl", "there is no text 'source:perl'"),
        ("text:", "there is no text 'text:'"),
    ):
        with pytest.raises(UserError, match=said):
            data.load(name, **HOW)
    with pytest.raises(UserError, match="is text, but images are wanted here"):
        data.read("source:stdlib")


def test_a_file_that_has_become_shorter(tmp_path: pathlib.Path) -> None:
    place = folder(tmp_path)
    d = data.load(f"text:{place}", **HOW)
    last = d.train.images.documents[-1].path
    last.write_bytes(b"")
    with pytest.raises(UserError, match="is shorter than it was"):
        d.train.images[:]

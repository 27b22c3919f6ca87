"""JPEGs that Pillow does not decode have the pixels that it would give them, to the bit."""

import functools
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from image_files import noise, png
from PIL import Image

from supernet_jax.data import decode, jpeg
from supernet_jax.data.decode import How, Item, Part
from supernet_jax.runtime import native

PLAIN = {"quality": 92}
KINDS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:2:0": {"subsampling": "4:2:0"},
    "fine": {"quality": 99, "optimize": True},
    "coarse": {"quality": 20},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 5},
    "RGB": {"keep_rgb": True},  # not converted to luminance and colour
    "noted": {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
}
# (width, height) and sizes of the square: smaller, larger, and from 1/2, 1/4 and 1/8 of a JPEG
SIZES = [((500, 375), 224), ((375, 500), 97), ((83, 61), 200), ((641, 480), 100), ((90, 16), 15)]


@pytest.fixture(autouse=True)
def both() -> None:
    if jpeg.simplejpeg is None or jpeg._kernel() is None:
        pytest.skip("without simplejpeg, the compiled kernels or AVX2 Pillow decodes")
    assert jpeg.usable(), "Pillow or libjpeg-turbo has other pixels than it had"


@functools.cache
def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Detail at several scales, as photographs have it, black and white included."""
    pixels = np.full((height, width, 3), 128.0)
    for cells in (3, 11, 60):
        coarse = Image.fromarray(noise(cells, cells, cells, 3))
        smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
        pixels += np.asarray(smooth, float) - 128
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **(PLAIN | how))
    return file.getvalue()


def parts() -> Iterator[Part]:
    """Whole, the middle, and random crops."""
    yield from (decode.whole, decode.centre)
    for seed in range(6):
        yield functools.partial(decode.random_box, np.random.default_rng(seed))


def outcome(content: bytes, **how: Any) -> list[Any]:
    """Pixels or what is wrong, and what is odd."""
    seen: list[decode.Odd] = []
    made = decode.decode_one(Item("it", io.BytesIO(content), 0), seen=seen, **how)
    return [made if isinstance(made, str) else (made.shape, made.tobytes()), seen]


def compared(monkeypatch: pytest.MonkeyPatch, content: bytes, **how: Any) -> bool:
    """Whether Pillow was spared; without it there was the same outcome."""
    results: list[np.ndarray | None] = []
    with monkeypatch.context() as patched:

        def noted(*given: Any) -> np.ndarray | None:
            results.append(square(*given))
            return results[-1]

        square = jpeg.square
        patched.setattr(jpeg, "square", noted)
        own = outcome(content, **how)
        patched.setattr(jpeg, "square", lambda *given: None)
        assert own == outcome(content, **how)
    return any(made is not None for made in results)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_pillows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for sides, size in SIZES:
        content = encoded(photo(*sides), **KINDS[kind])
        for seed, part in enumerate(parts()):
            fixed = part(*sides)  # a random one is another at the next call
            how = {"size": size, "box": lambda *sides, fixed=fixed: fixed}
            assert compared(monkeypatch, content, **how), (sides, size, seed)


def test_pixels_of_noise_are_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any sides, any size, up to a line of pixels, of which Pillow makes every value."""
    rng = np.random.default_rng(0)
    spared = 0
    for _ in range(150):
        width, height, size = (int(n) for n in rng.integers((10, 10, 1), (300, 300, 80)))
        content = encoded(Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)))
        box = decode.random_box(rng, width, height)
        spared += compared(monkeypatch, content, size=size, box=lambda w, h, box=box: box)
    assert spared > 75


def test_the_first_of_several_images(monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo(200, 150)
    content = encoded(image, "MPO", save_all=True, append_images=[image.rotate(180)])
    assert compared(monkeypatch, content, size=64)


LEFT = {
    "grey": (encoded(photo(200, 150, "L")), {}),
    "CMYK": (encoded(photo(200, 150, "CMYK")), {}),
    "PNG": (png(np.asarray(photo(200, 150))), {}),
    "tiny": (encoded(photo(15, 15)), {}),
    "made grey": (encoded(photo(200, 150)), {"mode": "L"}),
    "turned": (encoded(photo(200, 150), **KINDS["noted"]), {"how": How(upright=True)}),
    "tall": (encoded(photo(60, 400)), {}),  # columns first
    "whole": (encoded(photo(200, 150)), {"size": None}),
    "cut short": (encoded(photo(200, 150))[:-700], {}),
    "empty": (b"", {}),
    "text": (b"\xff\xd8 no image", {}),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left_to_pillow(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, how = LEFT[case]
    assert not compared(monkeypatch, content, **{"size": 33, **how})


def test_upright_images_that_note_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(photo(200, 150))
    assert compared(monkeypatch, content, size=33, how=How(upright=True, background="grey"))


def test_what_is_odd_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "LARGE", 1000)
    content = encoded(photo(200, 150), **KINDS["noted"])
    assert compared(monkeypatch, content, size=33)
    assert outcome(content, size=33)[1] == ["large", "rotated"]


@pytest.mark.parametrize("kind", ["4:2:0", "progressive"])
def test_damaged_files_are_what_they_were(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some damage is nothing to Pillow, some shows in the pixels, some is refused."""
    rng = np.random.default_rng(0)
    content = encoded(photo(120, 90), **KINDS[kind])
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(2, len(content), 3):
            damaged[place] = rng.integers(256)
        compared(monkeypatch, bytes(damaged), size=33)
        refused += isinstance(outcome(bytes(damaged), size=33)[0], str)
    assert 0 < refused < 60
    assert compared(monkeypatch, content + b"more behind its end", size=33)


def forgotten() -> None:
    """What is there is looked up again."""
    for known in (native._library, jpeg._kernel, jpeg.usable):
        known.cache_clear()


@pytest.mark.parametrize(
    "other", [{"fastdct": True}, {"fastupsample": True}, {"colorspace": "BGR"}]
)
def test_a_decoder_with_other_pixels_is_not_used(
    other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encoded(photo(200, 150))
    wanted = outcome(content, size=64)
    right = jpeg.simplejpeg.decode_jpeg
    monkeypatch.setattr(
        jpeg.simplejpeg,
        "decode_jpeg",
        lambda content, colour, **how: right(content, **{"colorspace": colour, **how, **other}),
    )
    forgotten()
    try:
        assert not jpeg.usable() and outcome(content, size=64) == wanted
    finally:
        forgotten()


@pytest.mark.parametrize("missing", ["simplejpeg", "kernels"])
def test_pillow_decodes_where_one_is_missing(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(photo(200, 150))
    wanted = outcome(content, size=64)
    if missing == "simplejpeg":
        monkeypatch.setattr(jpeg, missing, None)
    else:
        monkeypatch.setenv(native.SWITCH, "0")
    forgotten()
    try:
        assert not jpeg.usable() and not compared(monkeypatch, content, size=64)
        assert outcome(content, size=64) == wanted
    finally:
        forgotten()

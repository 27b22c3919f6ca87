"""Images per second of the input pipeline, augmentation included, and what limits it.

    python benchmarks/data.py --quick
    python benchmarks/data.py --data-dir DIR

32 px: CIFAR-10 in memory (of a TFDS folder, or noise of that size), in whole batches, cropped and
mirrored on the device. 224 px: JPEGs of about 500 x 375 pixels, made for the purpose, streamed with
random crops, also by Pillow alone. Stages are timed alone, too, in turns and in processor time,
which others on the machine disturb less than they do the wall clock.
"""

import io
import pathlib
import statistics
import tempfile
import time
from unittest import mock

import jax
import measure
import numpy as np
from PIL import Image

from supernet_jax import data
from supernet_jax.data import augment, decode, jpeg
from supernet_jax.errors import UserError
from supernet_jax.runtime import sharding

KINDS = 64  # different JPEGs; the others are copies of them
SECONDS = 8.0  # that each pipeline runs


def main() -> None:
    """Runs the pipelines and prints what they do."""
    parser = measure.parser(__doc__)
    parser.add_argument("--data-dir", help="where TFDS has CIFAR-10; noise without it")
    parser.add_argument("--batch", type=int, default=256, help="images of a batch")
    parser.add_argument("--images", type=int, default=2048, help="JPEGs in the folder")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    seconds = SECONDS / 4 if arguments.quick else SECONDS
    count = 256 if arguments.quick else arguments.images
    if not jpeg.usable():
        print("JPEGs are left to Pillow: simplejpeg, the kernels or AVX2 are not there")
    name, small = in_memory(arguments.data_dir)
    paces = [pace(f"32 px, {name}, in memory", small, arguments.batch, seconds, pad=4)]
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(pathlib.Path(folder), count)
        how = {"held_out": 0.1, "seed": 0, "size": 224, "crop": "random"}
        large = data.load(f"folder:{folder}", **how).train
        with by_pillow():
            title = "224 px, JPEGs streamed, by Pillow alone"
            paces.append(pace(title, large, arguments.batch, seconds, pad=0))
        for workers in arguments.workers:
            reading = data.Reading(threads=0, workers=workers)
            title = f"224 px, JPEGs streamed, {workers} workers"
            paces.append(pace(title, large, arguments.batch, seconds, pad=0, reading=reading))
        alone = stages(small, large, rounds=5 if arguments.quick else 20)
    measure.table(["pipeline", "images/s"], [list(row.values()) for row in paces])
    print()
    measure.table(["stage", "processor ms/image", "images/s and core"], alone)
    stage_rows = [dict(zip(("stage", "ms", "per_second"), row, strict=True)) for row in alone]
    measure.write(arguments.json, {"pipelines": paces, "stages": stage_rows})


def in_memory(data_dir: str | None) -> tuple[str, data.Images]:
    """CIFAR-10's training images, or noise of their size."""
    if data_dir is not None:
        try:
            found = data.load("tfds:cifar10", data_dir=data_dir, held_out=5000, seed=0)
            return "CIFAR-10", found.train
        except UserError as error:
            print(error)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (45_000, 32, 32, 3), np.uint8)
    return "noise", data.Images(pixels, rng.integers(0, 10, len(pixels)).astype(np.int32))


def write_jpegs(folder: pathlib.Path, count: int) -> None:
    """So many smooth colour images of about the size of ImageNet's, in two classes."""
    files = [photo(i) for i in range(KINDS)]
    for label in ("a", "b"):
        (folder / label).mkdir()
    for i in range(count):
        (folder / "ab"[i % 2] / f"{i:06}.jpg").write_bytes(files[i % KINDS])


def photo(seed: int, *, width: int = 500, height: int = 375) -> bytes:
    """Noise at several scales, as photographs have detail at all of them: about 55 kB."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128.0)
    for cells in (4, 16, 64, 256):
        coarse = rng.normal(size=(cells * 3 // 4, cells, 3)) * 40 / (cells / 4) ** 0.4
        for c in range(3):
            layer = Image.fromarray(coarse[..., c].astype(np.float32))
            pixels[..., c] += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC))
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def by_pillow():
    """Has this process, not its workers, leave JPEGs to Pillow meanwhile."""
    return mock.patch.object(jpeg, "square", lambda *given: None)


def augmenter(*, pad: int):
    """The jitted augmentation of a batch, with mirroring and normalisation."""

    @jax.jit
    def run(images, key, ids):
        images = augment.augment(images, key, ids, pad=pad, flip=True)
        return augment.normalise(images, mean=(0.5,) * 3, std=(0.25,) * 3)

    return run


def pace(title, images, batch, seconds, *, pad, reading=None):
    """Images per second from the source to augmented floats on the device."""
    mesh, run, key = sharding.data_mesh(), augmenter(pad=pad), jax.random.key(0)
    feed = data.feed(images, batch, seed=0, start=0, stop=10**6, reading=reading)

    def one():
        host = next(feed)
        pixels, ids = sharding.split(mesh, (host.inputs, host.ids))
        return run(pixels, key, ids)

    for _ in range(3):  # compiled, workers started, buffers full
        jax.block_until_ready(one())
    begin, done, last = time.perf_counter(), 0, None
    while time.perf_counter() - begin < seconds:
        last = one()
        done += batch
    jax.block_until_ready(last)
    taken = time.perf_counter() - begin
    feed.close()
    return {"pipeline": title, "images_per_s": done / taken}


def stages(small, large, *, rounds):
    """Processor time per image of each stage alone, on one thread (on all, where JAX runs it)."""
    files = [item.file.read_bytes() for item in large.images.source.items(range(KINDS))]
    items = [decode.Item(str(i), io.BytesIO(file), 0) for i, file in enumerate(files)]
    opened = [Image.open(io.BytesIO(file)) for file in files]
    for image in opened:
        image.load()
    boxes = [decode.random_box(np.random.default_rng(i), 500, 375) for i in range(KINDS)]
    batch = next(data.feed(large, KINDS, seed=0, start=0, stop=1))
    ids = np.arange(KINDS, dtype=np.int32)
    mesh, key = sharding.data_mesh(), jax.random.key(0)
    on_device = sharding.split(mesh, batch.inputs)
    run = augmenter(pad=0)
    few = next(data.feed(small, KINDS * 8, seed=0, start=0, stop=1))
    crop, few_there = augmenter(pad=4), sharding.split(mesh, few.inputs)
    feed = data.feed(small, KINDS * 8, seed=0, start=0, stop=10**9)

    def decode_only():
        for file in files:
            Image.open(io.BytesIO(file)).load()

    def resize_only():
        for image, box in zip(opened, boxes, strict=True):
            image.resize((224, 224), Image.Resampling.BILINEAR, box=box)

    def both():
        for item, box in zip(items, boxes, strict=True):
            decode.decode_one(item, size=224, box=lambda w, h, box=box: box)

    def both_by_pillow():
        with by_pillow():
            both()

    named = {
        "32 px: gather a batch": (lambda: next(feed), KINDS * 8),
        "32 px: transfer": (lambda: sharding.split(mesh, few.inputs), KINDS * 8),
        "32 px: augment": (lambda: crop(few_there, key, few.ids), KINDS * 8),
        "224 px: decode by Pillow": (decode_only, KINDS),
        "224 px: crop and resize by Pillow": (resize_only, KINDS),
        "224 px: both by Pillow": (both_by_pillow, KINDS),
        "224 px: both, as the pipeline does": (both, KINDS),
        "224 px: transfer": (lambda: sharding.split(mesh, batch.inputs), KINDS),
        "224 px: augment": (lambda: run(on_device, key, ids), KINDS),
    }
    taken = {name: [] for name in named}
    for turn in range(rounds + 1):  # the first compiles
        for name, (work, count) in named.items():
            begin = time.process_time()
            jax.block_until_ready(work())
            if turn:
                taken[name].append((time.process_time() - begin) / count)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    return [[name, median * 1e3, 1 / median] for name, median in medians.items()]


if __name__ == "__main__":
    main()

"""Mistakes of users: each ends with status 2 and one message that says what to do, no traceback."""

import json
import pathlib
import shlex
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny_run
import voices
from tiny_run import ARCH, CONFIG, supernet

Before = Callable[["Place"], Any]


class Place(NamedTuple):
    """Where a case takes place: an empty folder, and in it a searched run of its own."""

    tmp: pathlib.Path
    run: pathlib.Path


@pytest.fixture
def place(tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    run = tmp_path / "run"
    shutil.copytree(tiny_run.searched(tmp_path_factory), run)
    return Place(tmp_path, run)


# --- what is wrong ---------------------------------------------------------------------------


def text(name: str, content: str) -> Before:
    """A file in the folder."""
    return lambda place: (place.tmp / name).write_text(content)


def archs(value: Any) -> Before:
    """A file `archs.json`."""
    return text("archs.json", value if isinstance(value, str) else json.dumps(value))


def with_config(end: str, *replaced: str) -> Before:
    """A file `mine.py`: the tiny config, something in it replaced, and something at its end."""
    content = CONFIG.read_text()
    for old, new in zip(replaced[::2], replaced[1::2], strict=True):
        assert old in content
        content = content.replace(old, new)
    return text("mine.py", f"{content}\n{end}\n")


def with_part(part: str) -> Before:
    """A file `mine.py` whose config has another part."""
    return with_config(f"config = dataclasses.replace(config, {part})")


def with_space(space: str) -> Before:
    """A file `mine.py` whose config has another of the library's spaces."""
    replaced = f"config = dataclasses.replace(config, space=sj.spaces.{space})"
    return with_config(f"import supernet_jax as sj\n{replaced}")


def edited(change: Callable[[dict[str, Any]], Any]) -> Before:
    """The run's config.json, changed."""

    def edit(place: Place) -> None:
        value = json.loads((place.run / "config.json").read_text())
        change(value)
        (place.run / "config.json").write_text(json.dumps(value))

    return edit


def written(name: str, content: str) -> Before:
    """A file of the run, replaced."""
    return lambda place: (place.run / name).write_text(content)


def removed(name: str) -> Before:
    """A file or folder of the run, removed."""

    def remove(place: Place) -> None:
        path = place.run / name
        assert path.exists()
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def folder_instead(name: str) -> Before:
    """A folder of the name of a file of the run."""

    def make(place: Place) -> None:
        removed(name)(place)
        (place.run / name).mkdir()

    return make


def cut(place: Place) -> None:
    """The largest file of the last checkpoint, cut."""
    files = (path for path in (place.run / "checkpoints" / "30").rglob("*") if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:20])


def of_another_space(place: Place) -> None:
    """The run as if it was of a space with other widths; its checkpoints are of the old one."""
    edited(lambda c: c["space"].update(widths=[2, 4]))(place)


def broken_npz(place: Place) -> None:
    """An npz file that a full disk has cut."""
    path = place.tmp / "images.npz"
    np.savez(path, x_train=np.zeros((10, 8, 8), np.uint8), y_train=np.arange(10))
    path.write_bytes(path.read_bytes()[:300])


def not_an_array(place: Place) -> None:
    """An npz file without labels."""
    np.savez(place.tmp / "images.npz", x_train=np.zeros((10, 8, 8), np.uint8))


def with_voices(change: Callable[[pathlib.Path], Any], speakers: int = 2) -> Before:
    """Recordings in a folder `voices`, of which something is changed."""

    def make(place: Place) -> None:
        voices.write(place.tmp / "voices", speakers=speakers, utterances=3, seconds=0.12)
        change(place.tmp / "voices" / "speaker0")

    return make


def recorded(samples: int = 4_000, kind: type = np.int16, **how: int) -> Before:
    """One of the recordings in `voices`, replaced."""
    sound = np.zeros(samples, kind)
    return with_voices(lambda folder: voices.write_wav(folder / "1.wav", sound, **how))


def of_features(place: Place) -> None:
    """Features of one speaker."""
    some = {"x_train": np.zeros((4, 20, 80)), "y_train": np.zeros(4, int)}
    np.savez(place.tmp / "images.npz", **some, x_test=some["x_train"], y_test=some["y_train"])


def broken_search(place: Place) -> None:
    """The state of the search, cut."""
    (state,) = (place.run / "searches").iterdir()
    state.write_bytes(state.read_bytes()[:50])


def with_cost(cost: str = "sj.macs(space)", name: str = "price", build: str = "") -> Before:
    """A file `mine.py` whose configuration has a cost of one's own."""
    end = f"""
import supernet_jax as sj

@dataclasses.dataclass(frozen=True)
class Price:
    name = {name!r}
    unit = "EUR"
    def build(self, space):
        return {build or f"lambda archs: {cost}"}

config = dataclasses.replace(config, costs=(Price(),))"""
    return with_config(end)


def with_searcher(asks: str = "state[9]", init: str = "lambda key: {}", made: str = "") -> Before:
    """A file `mine.py` with a searcher of one's own."""
    end = f"""
import numpy as np
from supernet_jax.searching import Searcher

@dataclasses.dataclass(frozen=True)
class Mine:
    name = "mine"
    def build(self, space, costs):
        def archs(option, shape=(2,)):
            return jax.tree.map(lambda choice: np.full(shape, option), space.menu)
        ask = lambda state: {asks}
        return {made or f"Searcher({init}, ask, lambda state, *scored: state)"}"""
    return with_config(end)


def wrong_arch(place: Place) -> None:
    """Evaluations with an arch that the space does not have."""
    line = (place.run / "evaluations.jsonl").read_text().splitlines()[0]
    record = {**json.loads(line), "arch": {"kernel": 99}}
    (place.tmp / "some.jsonl").write_text(json.dumps(record))


def other_space(place: Place) -> None:
    """Evaluations of a run of another space."""
    (place.tmp / "other.json").write_text('[{"arch": {}, "space": "huge", "accuracy": 0.5}]')


def nothing(place: Place) -> None:
    """Only the command is wrong."""


# --- the table -------------------------------------------------------------------------------

# Words in capitals stand for paths: TMP the case's folder, RUN a run in it, OUT a folder that is
# not there yet, CONFIG the tiny config file, MINE a changed copy of it that a case writes, and HAT
# the config file of a tiny translation.
TRAIN, MY_TRAIN = "train CONFIG --out OUT ", "train MINE --out OUT"
HEAR = TRAIN + "--data.name folder:TMP/voices"
EVALUATE, SEARCH = "evaluate RUN --config CONFIG ", "search RUN --config CONFIG "
EXTRACT = "extract RUN --config CONFIG "
INFO = "info CONFIG --archs TMP/archs.json"
RANDOM = EVALUATE + "--random 1"

Case = tuple[str, str, Before, tuple[str, ...]]
COMMANDS: list[Case] = [
    ("no command", "", nothing, ("which command", "train", "quickstart", "--help")),
    ("misspelt command", "trian", nothing, ("'trian'", "did you mean train?")),
    ("misspelt flag", "--verison", nothing, ("'--verison'", "did you mean --version?")),
    ("one argument too many", "search RUN more", nothing, ("more", "search --help")),
    ("misspelt option", "search RUN --hihg 5", nothing, ("--hihg", "--high")),
    ("required option", "extract RUN --arch largest", nothing, ("--out", "required")),
    ("no number", EVALUATE + "--random many", nothing, ("--random", "'many'", "INT")),
]
TRAINING: list[Case] = [
    ("no config file", "train", nothing, ("config file", "configs/digits.py --out")),
    ("config file absent", "train TMP/mien.py --out OUT", with_config(""), ("mine.py?",)),
    ("no ending", "train TMP/mine --out OUT", with_config(""), ("TMP/mine;", "mine.py?")),
    ("no out", "train CONFIG", nothing, ("--out", "required")),
    ("no config in it", MY_TRAIN, text("mine.py", "c = 1"), ("it has no config", "= Config(")),
    ("config is a number", MY_TRAIN, text("mine.py", "config = 3"), ("it is 3", "= Config(")),
    ("syntax", MY_TRAIN, text("mine.py", "config = ("), ("SyntaxError", "line 1")),
    ("raises", MY_TRAIN, with_config("1 / 0"), ("ZeroDivisionError", "mine.py, line")),
    ("exits", MY_TRAIN, text("mine.py", "raise SystemExit(0)"), ("SystemExit", "line 1")),
    ("misspelt field", TRAIN + "--train.stepz 3", nothing, ("--train.stepz", "--train.steps")),
    (
        "misspelt field in the file",
        MY_TRAIN,
        with_part("train=Train(stepz=3)"),
        ("stepz", "mine.py, line", "did you mean steps?"),
    ),
    ("word for a number", TRAIN + "--train.steps ten", nothing, ("--train.steps", "'ten'", "INT")),
    ("text in the file", MY_TRAIN, with_part("train=Train(steps='6')"), ("steps is '6'", "whole")),
    ("share of a step", MY_TRAIN, with_part("train=Train(steps=6.5)"), ("steps is 6.5", "whole")),
    ("unknown dtype", TRAIN + "--train.dtype float16", nothing, ("float16", "bfloat16")),
    ("no steps", TRAIN + "--train.steps 0", nothing, ("train.steps is 0", "at least 1")),
    ("batch of one", TRAIN + "--train.batch 1", nothing, ("train.batch is 1", "at least 2")),
    ("negative seed", TRAIN + "--train.seed -1", nothing, ("train.seed is -1", "at least 0")),
    ("average", TRAIN + "--train.ema 1.5", nothing, ("train.ema is 1.5", "[0, 1)")),
    ("warm-up", TRAIN + "--optimizer.warmup 2", nothing, ("warmup is 2.0", "[0, 1)")),
    ("no rate", TRAIN + "--optimizer.learning-rate 0", nothing, ("learning-rate is 0.0", "above")),
    ("no end", TRAIN + "--optimizer.learning-rate inf", nothing, ("rate is inf", "finite")),
    ("momentum", TRAIN + "--optimizer.momentum 1", nothing, ("momentum is 1.0", "[0, 1)")),
    ("decay", TRAIN + "--optimizer.weight-decay -1", nothing, ("weight-decay is -1.0", "least 0")),
    ("clip", TRAIN + "--optimizer.clip 0", nothing, ("clip is 0.0", "above 0")),
    ("smoothing", TRAIN + "--loss.smoothing 1", nothing, ("smoothing is 1.0", "[0, 1)")),
    ("chunk", TRAIN + "--evaluation.chunk 0", nothing, ("evaluation.chunk is 0", "at least 1")),
    ("no members", TRAIN + "--sampler.n-random 0", nothing, ("n-random is 0", "1 or more")),
    ("pad", TRAIN + "--data.pad -1", nothing, ("data.pad is -1", "at least 0")),
    ("size", TRAIN + "--data.size 0", nothing, ("data.size is 0", "above 0")),
    ("nothing held out", TRAIN + "--data.held-out 0", nothing, ("held-out is 0.0", "above 0")),
    ("all held out", TRAIN + "--data.held-out 1430", nothing, ("1430", "at most 1428")),
    ("99.9 % held out", TRAIN + "--data.held-out 0.999", nothing, ("0.999", "at most 1428")),
    ("unknown data", TRAIN + "--data.name digit", nothing, ("'digit'", "did you mean digits?")),
    (
        "data not prepared",
        TRAIN + "--data.name tfds:mnist --data.data-dir TMP",
        nothing,
        ("mnist is not prepared", "TMP", "tfds build mnist"),
    ),
    ("no data folder", TRAIN + "--data.name folder:TMP/cats", nothing, ("cats does not exist",)),
    ("no npz", TRAIN + "--data.name npz:TMP/images.npz", nothing, ("no file TMP/images.npz",)),
    (
        "npz cut",
        TRAIN + "--data.name npz:TMP/images.npz",
        broken_npz,
        ("images.npz is not a npz file", "savez", "cut short"),
    ),
    ("ids flipped", TRAIN + "--data.name ids:a --data.flip", nothing, ("flip", "for images")),
    ("no ids", TRAIN + "--data.name ids:TMP/a.npz", nothing, ("no file TMP/a.npz",)),
    (
        "ids without labels",
        TRAIN + "--data.name ids:TMP/images.npz",
        not_an_array,
        ("no y_train", "x_test"),
    ),
    ("another rate", HEAR, recorded(rate=8_000), ("0/1.wav (8,000 samples a", "16,000 samples")),
    ("stereo", HEAR, recorded(channels=2), ("0/1.wav (2 channels)", "with one channel")),
    ("8 bits", HEAR, recorded(width=1, kind=np.uint8), ("0/1.wav (8-bit", "of 16-bit PCM")),
    ("one frame", HEAR, recorded(80), ("too short: 80 samples, 1 frame", "at least 10 frames")),
    (
        "no WAV inside",
        HEAR,
        with_voices(lambda folder: (folder / "1.wav").write_bytes(b"RIFFRAFF" * 9)),
        ("speaker0/1.wav (no WAV file of PCM", "convert, mend or remove"),
    ),
    (
        "images and recordings",
        HEAR,
        with_voices(lambda folder: (folder / "face.png").write_bytes(b"")),
        ("1 files in the class folders of TMP/voices are no recordings", "face.png"),
    ),
    (
        "a speaker without recordings",
        HEAR,
        with_voices(lambda folder: (folder.parent / "eve").mkdir()),
        ("no recording in TMP/voices/eve", ".wav"),
    ),
    (
        "one speaker",
        HEAR,
        with_voices(lambda folder: None, speakers=1),
        ("recordings of 1 speaker (speaker0)", "nobody to tell apart"),
    ),
    (
        "features of one speaker",
        TRAIN + "--data.name npz:TMP/images.npz",
        of_features,
        ("recordings of 1 speaker (0)", "nobody to tell apart"),
    ),
    (
        "flipped speech",
        HEAR + " --data.flip",
        with_voices(lambda folder: None),
        ("data.flip is True, which is for images", "voices is speech; leave it out"),
    ),
    ("npz parts", TRAIN + "--data.name npz:TMP/images.npz", not_an_array, ("no y_train", "x_test")),
    ("too many devices", TRAIN + "--devices 99", nothing, ("--devices is 99", "there are 8")),
    ("devices", TRAIN + "--devices -1", nothing, ("--devices is -1", "there are 8", "0 uses all")),
    ("batch over devices", TRAIN + "--train.batch 12", nothing, ("8 devices", "use 8 or 16")),
    ("address", TRAIN + "--coordinator here", nothing, ("'here'", "HOST:PORT")),
    (
        "which process",
        TRAIN + "--coordinator localhost:1 --processes 2 --process 2",
        nothing,
        ("--process is 2", "0 to 1"),
    ),
    ("no coordinator", TRAIN + "--processes 2", nothing, ("--coordinator HOST:PORT",)),
    ("unknown logger", TRAIN + "--log tensorbord", nothing, ("'tensorbord'", "mean tensorboard?")),
    ("out is taken", "train CONFIG --out TMP", nothing, ("not a run", "another --out")),
    ("out is a file", "train CONFIG --out CONFIG", nothing, ("cannot write", "another --out")),
    (
        "another configuration",
        "train CONFIG --out RUN --train.seed 3 --train.batch 32",
        nothing,
        ("train.seed is 0 there and 3 now", "train.batch is 64 there and 32 now"),
    ),
    (
        "another kind of part",
        "train MINE --out RUN",
        with_part("optimizer=__import__('supernet_jax').optimizers.AdamW()"),
        ("optimizer is a Sgd there and a AdamW now",),
    ),
    ("another config.json", "train CONFIG --out RUN", written("config.json", "{}"), ("not that",)),
    ("resumed after a cut", "train CONFIG --out RUN --train.steps 30", cut, ("step 30", "damaged")),
]
PARTS: list[Case] = [
    ("no build", MY_TRAIN, with_config("", "def build(", "def biuld("), ("TinySpace.build(",)),
    (
        "build's arguments",
        MY_TRAIN,
        with_config("", "classes: int, input_channels: int", "flavours: int"),
        ("TinySpace.build(", "required keyword-only argument: 'flavours'"),
    ),
    (
        "build raises",
        MY_TRAIN,
        with_config("", '("width",), ("kernel", 0)', '("widht",), ("kernel", 0)'),
        ("config.space", "'widht'", "mine.py, line"),
    ),
    (
        "build returns nothing",
        MY_TRAIN,
        with_config("", "return Space(", "Space("),
        ("returns a NoneType", "must return a Space"),
    ),
    *(
        (name, MY_TRAIN, with_part(f"space=__import__('supernet_jax').spaces.{part}"), said)
        for name, part, said in (
            (
                "patch",
                "MCUFormer(resolutions=(8,), patches=(3,))",
                ("images of 8 pixels", "patches of 3", "divide the resolution"),
            ),
            ("rank ratio", "MCUFormer(rank_ratios=(0.5, 1.5))", ("rank-ratios has 1.5", "at most")),
            ("no ratio", "MCUFormer(rank_ratios=(0.0,))", ("rank-ratios is (0.0,)", "above 0")),
            ("rank", "MaestroMlp(ranks=(4, 65))", ("ranks has 65", "smaller side", "64, 64, 10")),
            ("rank of 0", "MaestroMlp(ranks=(0, 4))", ("ranks has 0", "at least 1")),
        )
    ),
    (
        "what is dropped",
        MY_TRAIN,
        with_part("sampler=__import__('supernet_jax').samplers.OrderedDropout(decision='rnak')"),
        ("decision is 'rnak'", "depth, kernel"),
    ),
    (
        "no temperature",
        MY_TRAIN,
        with_part("sampler=__import__('supernet_jax').samplers.FBNet(temperature=0.0)"),
        ("sampler.temperature is 0.0", "above 0"),
    ),
    ("options unsorted", TRAIN + "--space.widths 4 2", nothing, ("(4, 2)", "smallest first")),
    ("a part without build", MY_TRAIN, with_part("sampler=Train()"), ("sampler is Train(", "give")),
    ("data of another kind", MY_TRAIN, with_part("data=Train()"), ("data is Train(", "a Data")),
    ("a part of no class", MY_TRAIN, with_part("loss=3"), ("loss is 3", "build(")),
    (
        "a part that JSON cannot hold",
        MY_TRAIN,
        with_config(
            "class Plain:\n"
            "    def build(self):\n"
            "        return HardLabels().build()\n"
            "config = dataclasses.replace(config, loss=Plain())"
        ),
        ("a Plain", "cannot be written as JSON", "make it a dataclass"),
    ),
]
INFOS: list[Case] = [
    ("setting of a space", "info digits --space.width 3", nothing, ("--space.width", "options")),
    ("patch", "info vit_supernet --space.patch 30", nothing, ("224 pixels", "patches of 30")),
    ("no types", "info bert_supernet --space.types 0", nothing, ("space.types is 0", "least 1")),
    ("unknown space", "info attentivnas", nothing, ("'attentivnas'", "mean attentivenas?")),
    ("no samples", "info CONFIG --samples 0", nothing, ("--samples is 0", "at least 1")),
    ("batches without", "info CONFIG --batches 3", nothing, ("--batches needs --splits",)),
    ("not Python", "info TMP/archs.json", archs([]), ("archs.json is not a Python file",)),
    ("no archs file", "info CONFIG --archs TMP/arch.json", archs([]), ("mean archs.json?",)),
    ("archs is a folder", "info CONFIG --archs TMP", nothing, ("TMP is a folder, not a JSON",)),
    ("not JSON", INFO, archs("{resolution"), ("archs.json is not valid JSON", "line 1")),
    ("nested without end", INFO, archs("[" * 100_000), ("archs.json is not valid JSON",)),
    ("no arch", INFO, archs([]), ("archs.json holds no arch",)),
    ("arch is a number", INFO, archs(5), ("must be an object", "width", "got 5")),
    ("value", INFO, archs({**ARCH, "width": 5}), ("width is 5", "allows 2, 4, 6", "tiny")),
    ("true", INFO, archs({**ARCH, "depth": True}), ("depth is True", "allows 0, 1")),
    ("length", INFO, archs({**ARCH, "kernel": [1]}), ("kernel", "list of 2 numbers", "[1]")),
    ("misspelt", INFO, archs({**ARCH, "widht": 4}), ("'widht'", "did you mean width?")),
    ("missing", INFO, archs({"resolution": 8, "width": 4}), ("lacks depth, kernel",)),
    ("second", INFO, archs([ARCH, {**ARCH, "depth": 3}]), ("arch 1", "depth is 3")),
    ("learned", "info CONFIG --archs argmax", nothing, ("argmax", "tiny is a space", "largest")),
    ("codes of no run", "info CONFIG --codes", nothing, ("--codes needs the folder of a run",)),
    ("codes of none", "info RUN --codes --config CONFIG", nothing, ("Uniform, learns no code",)),
    ("codes and archs", "info RUN --codes --archs largest", nothing, ("--codes and --archs",)),
    ("config", "info CONFIG --config CONFIG", nothing, ("--config needs the folder of a run",)),
]
RUNS: list[Case] = [
    ("no code", EVALUATE + "--archs argmax", nothing, ("Uniform, learns no code", "Darts")),
    ("listed", EVALUATE + "--archs '[\"sampled:1\"]'", nothing, ("RUN", "Uniform, learns no code")),
    ("long seed", EVALUATE + "--archs sampled:4294967296", nothing, ("4294967296", "at most")),
    ("misspelt name", EVALUATE + "--archs argmx", nothing, ("mean argmax?",)),
    ("no run", "evaluate TMP/runs --random 1", nothing, ("no run folder TMP/runs", "train")),
    ("not a run", "evaluate TMP --random 1", nothing, ("TMP is not a run folder", "config.json")),
    ("no checkpoint", RANDOM, removed("checkpoints"), ("no checkpoint yet", "supernet train")),
    (
        "no --config",
        "evaluate RUN --random 1",
        nothing,
        ("TinySpace", "--config FILE", "CONFIG, s"),
    ),
    ("absent --config", "evaluate RUN --random 1 --config MINE", nothing, ("no config file MINE",)),
    (
        "--config of others",
        "evaluate RUN --random 1 --config MINE",
        with_config("", "class TinySpace", "class Small", "=TinySpace", "=Small"),
        ("TinySpace of your own", "--config"),
    ),
    (
        "config.json cut",
        RANDOM,
        written("config.json", '{"type"'),
        ("config.json", "not a JSON file"),
    ),
    ("config.json of others", RANDOM, written("config.json", "[]"), ("not describe a Config",)),
    (
        "unknown and missing field",
        RANDOM,
        edited(lambda c: c["train"].update(stepz=c["train"].pop("steps"))),
        ("config.train (Train)", "unknown stepz", "missing steps", "edited"),
    ),
    ("wrong field", RANDOM, edited(lambda c: c["train"].update(steps="6")), ("steps is '6'",)),
    ("wrong part", RANDOM, edited(lambda c: c.update(train=7)), ("train is 7", "a Train")),
    ("unknown part", RANDOM, edited(lambda c: c["train"].update(type="Trian")), ("mean Train?",)),
    ("other split", RANDOM, edited(lambda c: c["data"].update(split_seed=1)), ("is 1", "with 0")),
    (
        "batch over devices, later",
        RANDOM,
        edited(lambda c: c["evaluation"].update(batch=60)),
        ("evaluation.batch in config.json is 60", "8 devices", "use 56 or 64"),
    ),
    ("no average", RANDOM, edited(lambda c: c["train"].update(ema=0.9)), ("'ema'", "no average")),
    ("of another space", RANDOM, of_another_space, ("width is [2, 4, 6], here [2, 4]",)),
    ("checkpoint cut", RANDOM, cut, ("checkpoint of step 30", "is damaged")),
    ("state lost", RANDOM, removed("checkpoints/30/state"), ("step 30", "damaged", "missing")),
    ("meta lost", RANDOM, removed("checkpoints/30/meta"), ("step 30", "damaged", "missing")),
    (
        "results damaged",
        RANDOM,
        folder_instead("evaluations.jsonl"),
        ("evaluations.jsonl is a folder, not a file",),
    ),
    ("no subnets", EVALUATE, nothing, ("--archs FILE, --random N or --front",)),
    ("part of a worker", RANDOM + " --farm 1.5", nothing, ("--farm is '1.5'", "a number of")),
    ("a race of a farm", RANDOM + " --race --farm 2", nothing, ("leave --race or --farm out",)),
    ("two kinds", EVALUATE + "--random 1 --front", nothing, ("exactly one",)),
    ("less than none", EVALUATE + "--random -1", nothing, ("--random is -1", "at least 1")),
    ("negative seed", RANDOM + " --seed -1", nothing, ("--seed is -1", "at least 0")),
    ("split", RANDOM + " --split tets", nothing, ("'tets'", "held-out, test", "mean test?")),
    ("out exists", RANDOM + " --out CONFIG", nothing, ("exists already", "another --out")),
    ("out nowhere", RANDOM + " --out TMP/a/b.json", nothing, ("no folder TMP/a", "make it")),
    ("misspelt arch", EVALUATE + "--archs largets", nothing, ("no file largets", "mean largest?")),
    ("no search", EVALUATE + "--front", removed("search.json"), ("no search", "supernet search")),
]
MY_SEARCH = "search RUN --config MINE --evaluations 4 "
MINE = MY_SEARCH + "--searcher mine"
PRICED = MY_SEARCH + "--searcher random --budget price:..1e9"
SEARCHES: list[Case] = [
    ("my cost fails", PRICED, with_cost("1 / 0"), ("price fails: ZeroDivision", "mine.py, line")),
    ("my cost's build fails", PRICED, with_cost(build="1 / 0"), ("Price.build(space) fails",)),
    ("my cost's no function", PRICED, with_cost(build="5"), ("returns a int", "a function of")),
    ("my cost's shape", PRICED, with_cost("3.0"), ("has shape ()", "one number for each arch")),
    ("my cost's text", PRICED, with_cost("['a', 'b']"), ("array of <U1", "real numbers")),
    ("my cost's nan", PRICED, with_cost("0 * sj.macs(space)(archs) + float('nan')"), ("is NaN",)),
    (
        "my cost's name",
        MY_SEARCH + "--budget accuracy:..1",
        with_cost(name="accuracy"),
        ("'accuracy', which means something else", "another `name`"),
    ),
    (
        "a second macs",
        MY_SEARCH + "--budget macs:..1e9",
        with_cost(name="macs"),
        ("'macs', which means something else", "another `name`"),
    ),
    ("my ask fails", MINE, with_searcher(), ("ask of Mine fails: KeyError: 9", "mine.py, line")),
    ("my init fails", MINE, with_searcher(init="lambda: 0"), ("init of Mine fails: TypeError",)),
    ("my build fails", MINE, with_searcher(made="1 / 0"), ("Mine.build(space, costs) fails",)),
    ("no searcher", MINE, with_searcher(made="3"), ("returns a int", "return a Searcher")),
    ("asks for none", MINE, with_searcher("(archs(0, (0,)), state)"), ("asked for no subnet",)),
    ("asks beyond", MINE, with_searcher("(archs(9), state)"), ("gives option 9 for", "options 0")),
    ("asks before", MINE, with_searcher("(archs(-1), state)"), ("gives option -1 for",)),
    ("asks for half", MINE, with_searcher("(archs(0.5), state)"), ("gives float64 for", "whole")),
    ("asks for one", MINE, with_searcher("(archs(0, ()), state)"), ("no archs", "shape [N]")),
    ("asks for text", MINE, with_searcher("('a', state)"), ("no archs", "space.menu")),
    (
        "no state",
        MINE,
        with_searcher("(archs(0), state)", init="lambda key: object()"),
        (".state of the searcher is a object", "arrays, numbers or keys"),
    ),
    ("only infinity", SEARCH + "--budget macs:1e400..", nothing, ("from inf to inf",)),
    ("a race's error", SEARCH + "--race --race-error 2", nothing, ("--race-error is 2.0",)),
    (
        "a race of two costs",
        SEARCH + "--race --budget macs:..1e9 --budget parameters:..1e9",
        nothing,
        ("objectives are accuracy, macs, parameters; leave --race out", "--objective macs:min"),
    ),
    ("a farm of none", SEARCH + "--farm 0", nothing, ("--farm is '0'", "1 to 256")),
    ("a farm of no number", SEARCH + "--farm all", nothing, ("--farm is 'all'", "HOST:PORT")),
    ("a farm by Ray's client", SEARCH + "--farm ray://h:1", nothing, ("client is not used",)),
    (
        "a farm that does not answer",
        SEARCH + "--evaluations 20 --seed 7 --farm localhost:1",
        removed("evaluations.jsonl"),
        ("no Ray cluster answers within 10 s", "ray start --head"),
    ),
    ("a race by a farm", SEARCH + "--race --farm 2", nothing, ("leave --race or --farm out",)),
    (
        "a farm in a job",
        SEARCH + "--farm 2 --coordinator localhost:1 --processes 2",
        nothing,
        ("--farm and --coordinator are two ways",),
    ),
    ("a race for less", SEARCH + "--race --objective loss:min", nothing, ("a large accuracy",)),
    ("misspelt aim", SEARCH + "--objective acuracy:max", nothing, ("no cost 'acuracy'",)),
    (
        "warm of a wrong arch",
        SEARCH + "--warm-start TMP/some.jsonl",
        wrong_arch,
        ("some.jsonl has a record that is damaged", "the arch lacks"),
    ),
    ("too tight", SEARCH + "--high 100", nothing, ("at most 100 MACs", "smallest arch costs 148")),
    ("too dear", SEARCH + "--low 1e6", nothing, ("1,000,000", "nearest of them 24,252")),
    (
        "no memory",
        SEARCH + "--budget peak_memory:..100",
        nothing,
        ("at most 100 bytes", "smallest arch costs"),
    ),
    ("upside down", SEARCH + "--low 10 --high 5", nothing, ("from 10.0 to 5.0", "lower one")),
    ("not a number", SEARCH + "--high nan", nothing, ("to nan", "two numbers")),
    ("cost", SEARCH + "--cost mac", nothing, ("'mac'", "macs, parameters", "did you mean macs?")),
    (
        "searcher",
        SEARCH + "--searcher evolutoin",
        nothing,
        ("'evolutoin'", "evolution, hardcore, linas, nsga2, random", "did you mean evolution?"),
    ),
    ("no name", SEARCH + "--budget ..300", nothing, ("'..300'", "NAME:LOW..HIGH", "macs:..300e6")),
    ("no dots", SEARCH + "--budget macs:300", nothing, ("'macs:300'", "NAME:LOW..HIGH")),
    ("no number", SEARCH + "--budget macs:..3oo", nothing, ("'macs:..3oo'", "NAME:LOW..HIGH")),
    ("budget twice", SEARCH + "--budget macs:..3 --budget macs:9..", nothing, ("two budgets of",)),
    ("metric", SEARCH + "--budget accuracy:0.9..", nothing, ("no cost 'accuracy'", "objectives")),
    ("budget nan", SEARCH + "--budget macs:nan..", nothing, ("from nan to inf", "two numbers")),
    (
        "exclude each other",
        SEARCH + "--budget macs:..200 --budget parameters:300..",
        nothing,
        ("at most 200 MACs and at least 300 parameters", "choose budgets that include"),
    ),
    (
        "both ways",
        SEARCH + "--budget macs:..300 --high 300",
        nothing,
        ("--budget and --cost, --low or --high", "--budget macs:0..300"),
    ),
    (
        "no direction",
        SEARCH + "--objective macs",
        nothing,
        ("'macs' has no direction", "macs:min if less is better"),
    ),
    ("which way", SEARCH + "--objective macs:down", nothing, ("no direction", "macs:min")),
    ("objective twice", SEARCH + "--objective loss:min --objective loss:max", nothing, ("twice",)),
    (
        "unknown aim",
        SEARCH + "--objective loss:min --objective speed:max",
        nothing,
        ("no cost 'speed'",),
    ),
    ("nothing measured", SEARCH + "--objective macs:min", nothing, ("accuracy:max", "loss:min")),
    (
        "warm nowhere",
        SEARCH + "--warm-start TMP/none.jsonl",
        nothing,
        ("there is no", "none.jsonl"),
    ),
    ("warm of another", SEARCH + "--warm-start TMP/other.json", other_space, ("space huge",)),
    ("warm of none", SEARCH + "--warm-start CONFIG", nothing, ("CONFIG", "evaluations.jsonl")),
    ("search's logger", SEARCH + "--log wandn", nothing, ("--log is 'wandn'", "mean wandb?")),
    ("no evaluations", SEARCH + "--evaluations 0", nothing, ("--evaluations is 0", "least 1")),
    ("no bins", SEARCH + "--searcher.bins 0", nothing, ("bins is 0", "at least 1")),
    ("no one", SEARCH + "--searcher.population 0", nothing, ("population is 0", "at least 1")),
    ("rate", SEARCH + "--searcher.mutation-rate 2", nothing, ("mutation_rate is 2.0", "at most 1")),
    ("seed", SEARCH + "--seed -1", nothing, ("--seed is -1", "at least 0")),
    (
        "no children",
        SEARCH + "--searcher.mutations 0 --searcher.crossovers 0",
        nothing,
        ("mutations + crossovers is 0", "at least 1"),
    ),
    ("state cut", SEARCH + "--searcher random", broken_search, ("search state", "begins anew")),
]
EXTRACTIONS: list[Case] = [
    ("no code", EXTRACT + "--arch argmax --out OUT", nothing, ("Uniform, learns no code", "Darts")),
    ("seed", EXTRACT + "--arch sampled:-1 --out OUT", nothing, ("'sampled:-1'", "whole number")),
    ("no seed", EXTRACT + "--arch sampled: --out OUT", nothing, ("'sampled:'", "sampled:3")),
    ("beyond", EXTRACT + "--arch front:99 --out OUT", nothing, ("'front:99'", "front:0 to front:")),
    ("not in it", EXTRACT + "--arch front:x --out OUT", nothing, ("'front:x'", "front:0 to")),
    ("no arch", EXTRACT + "--out OUT", nothing, ("say which subnets", "--front")),
    ("both", EXTRACT + "--arch largest --front --out OUT", nothing, ("--arch for one", "--front")),
    (
        "format",
        EXTRACT + "--arch largest --out OUT --format onxx",
        nothing,
        ("'onxx'", "mean onnx"),
    ),
    (
        "unknown arch",
        EXTRACT + "--arch middle --out OUT",
        nothing,
        ("no file middle", "`smallest`"),
    ),
    ("out is full", EXTRACT + "--arch largest --out TMP", nothing, ("TMP exists already", "new")),
    ("out is a file", EXTRACT + "--arch largest --out CONFIG", nothing, ("exists already",)),
    (
        "search cut",
        EXTRACT + "--arch front:0 --out OUT",
        written("search.json", '{"front"'),
        ("search.json is not a result of a search, or was cut short", "supernet search RUN"),
    ),
    (
        "search of others",
        EXTRACT + "--arch front:0 --out OUT",
        written("search.json", "[]"),
        ("search.json is not the result of a search of this run", "supernet search RUN"),
    ),
    ("no search", EXTRACT + "--arch front:0 --out OUT", removed("search.json"), ("no search yet",)),
    ("no steps", "quickstart --steps 0", nothing, ("--steps is 0", "at least 1")),
    ("quick seed", "quickstart --seed -1", nothing, ("--seed is -1", "at least 0")),
    ("no quick run", "quickstart --out TMP", nothing, ("not a run", "another --out")),
    ("another quick run", "quickstart --out RUN", nothing, ("space is a TinySpace there",)),
]
PUBLISH = "publish RUN --config CONFIG "
PUBLISHING: list[Case] = [
    ("no name", PUBLISH + "--license mit", nothing, ("--repo", "required")),
    ("no owner", PUBLISH + "--license mit --repo net", nothing, ("'net'", "must be ORG/NAME")),
    ("no licence", PUBLISH + "--repo me/net", nothing, ("--license apache-2.0", "mit")),
    ("licence", PUBLISH + "--repo me/net --license MIT", nothing, ("'MIT'", "did you mean mit?")),
    ("nothing there", "publish TMP/x --repo me/net --license mit", nothing, ("no folder TMP/x",)),
    ("no network", "publish TMP --repo me/net --license mit", nothing, ("holds no network and",)),
    ("format", PUBLISH + "--repo me/net --license mit --format onx", nothing, ("'onx'", "onnx?")),
    (
        "no search",
        PUBLISH + "--repo me/net --license mit",
        lambda place: (place.run / "search.json").unlink(),
        ("has no search yet", "supernet search"),
    ),
    (
        "a folder that is taken",
        PUBLISH + "--repo me/net --license mit --out TMP",
        nothing,
        ("exists already", "another --out"),
    ),
    ("no address", "import hub me --config CONFIG --out OUT", nothing, ("hf:me", "hf:ORG/NAME")),
    ("slashes", "import network hf://me/a --config CONFIG --out OUT", nothing, ("hf:ORG/NAME",)),
]
SPACES: list[Case] = [
    (
        "NASViT at no multiple of 32",
        "info MINE",
        with_space("NASViT(resolutions=(192, 200))"),
        ("resolutions has 200", "multiples of 32"),
    ),
    (
        "NASViT on images too small",
        "info MINE",
        with_space("NASViT(resolutions=(16,))"),
        ("at least 32 pixels",),
    ),
    (
        "NASViT on images too large",
        "info MINE",
        with_space("NASViT(resolutions=(224, 320))"),
        ("320 pixels", "20 places", "space.window is 18", "larger window"),
    ),
    (
        "NASViT with heads that do not divide",
        "info MINE",
        with_space("NASViT(head_dim=7)"),
        ("64 channels", "heads of 7", "space.head-dim"),
    ),
    (
        "a small NASViT with heads that do not divide",
        "info MINE",
        with_space("NASViTSmall(widths=(12,))"),
        ("12 channels", "heads of 8"),
    ),
    (
        "NASViT with a head of nothing",
        "info MINE",
        with_space("NASViT(head_dim=0)"),
        ("heads of 0", "space.head-dim"),
    ),
    (
        "NASViT without values",
        "info MINE",
        with_space("NASViT(value_ratio=0)"),
        ("space.value-ratio is 0", "at least 1"),
    ),
    (
        "NASViT with too much drop path",
        "info MINE",
        with_space("NASViT(drop_path=1.5)"),
        ("space.drop-path is 1.5", "[0, 1)"),
    ),
    (
        "ViT-ResNAS at no multiple of its reductions",
        "info MINE",
        with_space("ViTResNAS(resolution=240)"),
        ("images of 240 pixels", "multiple of 56"),
    ),
    (
        "ViT-ResNAS with odd patches",
        "info MINE",
        with_space("ViTResNAS(patch=7)"),
        ("patches of 7 pixels", "even", "space.patch"),
    ),
    (
        "ViT-ResNAS whose reductions take channels away",
        "info MINE",
        with_space("ViTResNAS(widths=(100, 256))"),
        ("200 channels behind one of 256", "factor of 2"),
    ),
    (
        "ViT-ResNAS with two sizes of heads",
        "info MINE",
        with_space("ViTResNASSmall(head_dims=(32, 48))"),
        ("space.head-dims is (32, 48)", "3 numbers"),
    ),
    (
        "ViT-ResNAS without heads",
        "info MINE",
        with_space("ViTResNASSmall(num_heads=(0, 5))"),
        ("space.num-heads is (0, 5)", "above 0"),
    ),
    (
        "ViT-ResNAS without blocks",
        "info MINE",
        with_space("ViTResNASSmall(blocks=0)"),
        ("space.blocks is 0", "at least 1"),
    ),
]
TRANSLATE = "train HAT --out OUT "
TRANSLATIONS: list[Case] = [
    ("pairs absent", TRANSLATE + "--data.name pairs:TMP/a.tsv", nothing, ("no file TMP/a.tsv",)),
    (
        "pairs empty",
        TRANSLATE + "--data.name pairs:TMP/a.tsv",
        text("a.tsv", ""),
        ("a.tsv is empty", "SOURCE tab TARGET"),
    ),
    (
        "pairs without a tab",
        TRANSLATE + "--data.name pairs:TMP/a.tsv",
        text("a.tsv", "a\tb\nc\n"),
        ("a.tsv, line 2", "0 tabs", "paste SOURCES TARGETS"),
    ),
    (
        "pairs without a source",
        TRANSLATE + "--data.name pairs:TMP/a.tsv",
        text("a.tsv", "\tb\n"),
        ("a.tsv, line 1", "source is empty"),
    ),
    (
        "pairs too long",
        TRANSLATE + "--data.name pairs:TMP/a.tsv",
        text("a.tsv", f"a\tb\n{'x' * 30}\tb\n"),
        ("a.tsv, line 2", "30 bytes and an end", "at most 12", "--data.length"),
    ),
    (
        "pairs too few",
        TRANSLATE + "--data.name pairs:TMP/a.tsv",
        text("a.tsv", "a\tb\n"),
        ("a.tsv is too few pairs", "give more"),
    ),
    ("pairs of length 0", TRANSLATE + "--data.length 0", nothing, ("length is 0", "at least 1")),
    ("pairs of length 1", TRANSLATE + "--data.length 1", nothing, ("1 bytes with its end",)),
    (
        "text is to be translated",
        TRANSLATE + "--data.name source:stdlib",
        nothing,
        ("translates", "language modelling", "source:reversal"),
    ),
    (
        "images are to be translated",
        TRANSLATE + "--data.name digits --data.length None",
        nothing,
        ("translates", "image classification", "another space"),
    ),
    (
        "pairs for a space of images",
        TRAIN + "--data.name source:reversal",
        nothing,
        ("TinySpace.build(", "classes"),
    ),
    ("odd heads", TRANSLATE + "--space.qkv 9", nothing, ("qkv is 9", "a divisor")),
    ("attended", TRANSLATE + "--space.attended 3", nothing, ("attended has 3", "-1, 1 and 2")),
    (
        "attended beyond the encoder",
        TRANSLATE + "--space.attended 2",
        nothing,
        ("asks for 3 layers", "has 2 at most"),
    ),
    (
        "one table for two widths",
        TRANSLATE + "--space.shared",
        nothing,
        ("largest widths are 12 and 8", "--space.no-shared"),
    ),
]

CASES = [
    *(*COMMANDS, *TRAINING, *PARTS, *INFOS, *RUNS, *SEARCHES, *EXTRACTIONS, *SPACES),
    *(*PUBLISHING, *TRANSLATIONS),
]
IDS = [f"{command.split(' ')[0]}: {name}" for name, command, _, _ in CASES]


@pytest.mark.parametrize(("name", "command", "before", "words"), CASES, ids=IDS)
def test_a_mistake(
    name: str,
    command: str,
    before: Before,
    words: tuple[str, ...],
    place: Place,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = {
        "TMP": place.tmp,
        "RUN": place.run,
        "OUT": place.tmp / "out",
        "MINE": place.tmp / "mine.py",
        "CONFIG": CONFIG,
        "HAT": CONFIG.parent / "systems" / "hat.py",
    }

    def spelt(template: str) -> str:
        for word, path in paths.items():
            template = template.replace(word, str(path))
        return template

    before(place)
    said = supernet(capsys, *shlex.split(spelt(command)))
    message = " ".join(said.err.split())
    assert said.status == 2, said
    assert said.out == ""
    assert "Traceback" not in said.err
    assert [word for word in map(spelt, words) if word not in message] == [], message
    if message.startswith("supernet: "):  # else it is a box of tyro's, with a frame
        assert said.err.count("\n") == 1
    else:
        assert message.split()[0] in ("Unrecognized", "Value", "Invalid", "Required"), message
    assert not (place.tmp / "out").exists()


def test_each_case_has_a_name() -> None:
    assert len(set(IDS)) == len(IDS) >= 100

"""How long a report of many subnets takes to write, and a browser to draw it and to pick from it.

    python benchmarks/report.py
    python benchmarks/report.py --space ofa_mobilenetv3 --subnets 100000

The run is made up: random archs with their true MACs and parameters, and invented accuracies and
milliseconds. `written` is the text of the page from the files of the run, in seconds of CPU, which
others on the machine do not lengthen; its first call may compile the draws of the sampler that are
replayed. `loaded` is what Chromium takes from the file to the end of the load event, `picked` one
move of a slider until the next frame. Chromium and Selenium are needed for these (`pip install
selenium`, and Debian's packages chromium and chromium-driver); without them they are left out.
"""

import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import measure
import numpy as np

from supernet_jax.elastic import choices, notation, space_identity
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import costs
from supernet_jax.experiment import config
from supernet_jax.reporting import page, report
from supernet_jax.runtime import cache
from supernet_jax.searching import pareto_front
from supernet_jax.storage import checkpoint, files, typed_json

IMAGES = 1000
STEP = 500
CHROMIUM, DRIVER = "chromium", "chromedriver"
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
PICK = """const done = arguments[arguments.length - 1], range = document.getElementById("range-0");
const start = performance.now();
range.value = Number(range.max) / 2;
range.dispatchEvent(new Event("input"));
requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));"""
LOADED = "return performance.getEntriesByType('navigation')[0].loadEventEnd"


def write_run(
    folder: pathlib.Path, part: Any, *, count: int, seed: int = 0, **more: Any
) -> pathlib.Path:
    """A run folder as after a search for accuracy, latency and MACs, without weights.

    Args:
        folder: to write.
        part: of a configuration, the space.
        count: subnets that were evaluated, at most as many as there are archs.
        seed: of all that is random.
        **more: further fields of the configuration.
    """
    space: Space = part.build()
    settings = config.Config(space=part, train=config.Train(steps=STEP, log_every=1), **more)
    files.make_folder(folder)
    files.write_json(folder / "config.json", typed_json.to_json(settings))
    meta = {
        "space": space_identity.describe_space(space),
        "data": "made up",
        "metric": space.task.metric._asdict(),
        "jax": jax.__version__,
    }
    with checkpoint.Checkpoints(folder / "checkpoints") as kept:
        kept.save(STEP, {"params": {"none": np.zeros(1)}}, meta, wait=True)
    rng = np.random.default_rng(seed)
    files.append_lines(folder / "metrics.jsonl", list(_metrics(space, rng)))
    records = _records(space, count, rng, seed)
    files.append_lines(folder / "evaluations.jsonl", records)
    files.write_json(folder / "search.json", _search(space, records, rng))
    return folder


def _metrics(space: Space, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for step in range(1, STEP + 1):
        known = {f"loss/{role}": 5 / step + 0.1 * rng.random() for role in ("largest", "smallest")}
        yield {"step": step, **known, f"{space.task.metric.name}/largest": float(rng.random())}


def _records(space: Space, count: int, rng: np.random.Generator, seed: int) -> list[dict[str, Any]]:
    """Evaluations: the metric grows with MACs, up to noise, in steps of an image."""
    archs = choices.sample(space.menu, jax.random.key(seed), (count,))
    archs = jax.tree.map(np.asarray, archs)
    macs, parameters = costs.macs(space)(archs), costs.parameters(space)(archs)
    size = (np.log(macs) - np.log(macs).min()) / max(np.ptp(np.log(macs)), 1e-9)
    metric = space.task.metric
    share = np.clip(0.6 + 0.3 * size + rng.normal(0, 0.02, count), 0, 1)
    share = np.rint(IMAGES * share) / IMAGES
    values = share if metric.unit == "%" else np.round(20 * (1.3 - share), 3)
    same = {"space": space.name, "checkpoint": STEP, "split": "held-out", "images": IMAGES}
    same |= {"data": "made up", "calibration": [2, 64], "dtype": "float32"}
    return [
        {
            "arch": notation.to_notation(space.menu, arch),
            metric.name: float(value),
            "loss": 1.0,
            "macs": int(m),
            "parameters": int(p),
            **same,
        }
        for arch, value, m, p in zip(choices.unstack(archs), values, macs, parameters, strict=True)
    ]


def _search(
    space: Space, records: list[dict[str, Any]], rng: np.random.Generator
) -> dict[str, Any]:
    metric = space.task.metric
    macs = np.array([one["macs"] for one in records])
    latency = np.round(macs / macs.max() * 20 * rng.uniform(0.8, 1.2, len(macs)), 3)
    score = np.array([metric.score(one[metric.name]) for one in records])
    chosen = pareto_front(np.c_[score, -macs, -latency])
    wanted = [(metric.name, "max" if metric.higher_is_better else "min")]
    wanted += [("macs", "min"), ("latency", "min")]
    units = {"macs": "MACs", "latency": "ms"}
    return {
        "searcher": "nsga2",
        "cost": "macs",
        "unit": "MACs",
        "budgets": [{"cost": n, "unit": u, "low": None, "high": None} for n, u in units.items()],
        "objectives": [{"name": name, "direction": way} for name, way in wanted],
        "split": "held-out",
        "images": IMAGES,
        "metric": metric._asdict(),
        "evaluations": len(records),
        "front": [{**records[i], "latency": float(latency[i])} for i in chosen],
        "all": [],
    }


def browser() -> Any:
    """A browser without a window, or None where there is none."""
    places = shutil.which(CHROMIUM), shutil.which(DRIVER)
    try:
        from selenium import webdriver
    except ImportError:
        return None
    if None in places:
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = places[0]
    for option in OPTIONS:
        options.add_argument(option)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(places[1]))


def written(folder: pathlib.Path, rounds: int) -> list[float]:
    """Seconds of CPU that the text of a report takes, the first call first."""
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        page.text(folder)
        times.append(time.process_time() - start)
    return times


def drawn(path: pathlib.Path, rounds: int) -> dict[str, list[float]]:
    """Seconds that the browser takes, by name; nothing without one."""
    driver = browser()
    if driver is None:
        print("no Chromium or no Selenium: only the writing is timed", file=sys.stderr)
        return {}
    times: dict[str, list[float]] = {"loaded": [], "picked": []}
    try:
        for _ in range(rounds + 1):
            driver.get(path.as_uri())
            times["loaded"].append(driver.execute_script(LOADED) / 1e3)
            times["picked"].append(driver.execute_async_script(PICK) / 1e3)
    finally:
        driver.quit()
    return times


def main() -> None:
    """Makes a run and times its report."""
    parser = measure.parser(__doc__)
    parser.add_argument("--space", default="attentivenas", choices=sorted(config.SPACES))
    parser.add_argument("--subnets", type=int, default=10_000, help="that were evaluated")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else arguments.rounds
    cache.enable()  # as the command does
    with tempfile.TemporaryDirectory() as made:
        part = config.SPACES[arguments.space]
        folder = write_run(pathlib.Path(made) / "run", part, count=arguments.subnets)
        seconds = {"written": written(folder, rounds)}
        path = report.report(folder)
        seconds |= drawn(path, rounds)
        timings = {
            name: measure.Timing(
                times[0], float(np.median(times[1:])), min(times[1:]), max(times[1:]), rounds
            )
            for name, times in seconds.items()
        }
        rows = measure.rows(
            timings,
            base="written",
            space=arguments.space,
            subnets=arguments.subnets,
            kilobytes=round(files.size_of(path) / 1e3),
        )
    measure.timings_table(rows, ("space", "subnets", "kilobytes"))
    measure.write(arguments.json, rows)


if __name__ == "__main__":
    main()

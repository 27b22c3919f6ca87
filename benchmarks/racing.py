"""Racing against full evaluation: images, fronts and errors, over many orders of the images.

    python benchmarks/racing.py --quick
    python benchmarks/racing.py --run runs/cifar10 --book book.npz --candidates 500

With a run, random candidates are evaluated once on all images; what each gets right is kept in the
book, which is gone on with if it is there. Then races are replayed from it: every seed is another
order of the images, of all candidates and of a random half of them. Calibration is the same for
both, so it is counted apart: "share of images" leaves it out, "with calibration" counts it in.
"Saw all" is the share of images that those alone take who are evaluated on all of them.

Simulated settings follow. In them a candidate is right about an image if ability - difficulty +
noise > 0, normal difficulties and noise, independent noise for each pair (a logistic item-response
model in all but the shape of its curve). Abilities rise with the cost, and spread around that.
"""

import argparse
import dataclasses
import math
import pathlib
import statistics
import time

import jax
import measure
import numpy as np

from supernet_jax.elastic import choices, space
from supernet_jax.evaluation import costs
from supernet_jax.experiment import config, run
from supernet_jax.experiment.race import Book
from supernet_jax.runtime import progress
from supernet_jax.searching import pareto_front, race

# Mean accuracy, its rise from the cheapest to the dearest, its spread around that, noise
# (standard deviations of difficulty), images.
SIMULATED = {
    "spread 0.5 %": (0.9, 0.03, 0.005, 0.2, 10_000),
    "spread 1 %": (0.9, 0.03, 0.01, 0.2, 10_000),
    "spread 2 %": (0.9, 0.03, 0.02, 0.2, 10_000),
    "spread 1 %, 2,500 images": (0.9, 0.03, 0.01, 0.2, 2_500),
    "spread 1 %, 25,000 images": (0.9, 0.03, 0.01, 0.2, 25_000),
    "spread 1 %, noisier": (0.9, 0.03, 0.01, 0.5, 10_000),
}


def main() -> None:
    """Runs the races and prints the tables."""
    parser = measure.parser(__doc__)
    parser.add_argument("--run", type=pathlib.Path, help="a trained run")
    parser.add_argument("--config", type=pathlib.Path, help="that defines parts of the run")
    parser.add_argument("--book", type=pathlib.Path, help="where its candidates' answers are kept")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--images", type=int, default=0, help="held-out images (default: all)")
    parser.add_argument(
        "--known", action="store_true", help="race only candidates that the book knows already"
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--error", type=float, default=0.05, help="stated probability")
    parser.add_argument(
        "--simulated", nargs="*", choices=SIMULATED, default=list(SIMULATED), help="settings"
    )
    parser.add_argument("--batch", type=int, default=250, help="images, of simulated settings")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.candidates, arguments.seeds = 60, 3
    report = []
    if arguments.run is not None:
        if arguments.book is None:
            parser.error("--run needs --book FILE.npz")
        report += measured(arguments)
    for i, (name, model) in enumerate(SIMULATED.items()):
        if name in arguments.simulated:
            macs, right = simulated(model, arguments.candidates, seed=i)
            row = replay(macs, right, arguments, batch=arguments.batch, calibration=0)
            report.append({"setting": f"simulated, {name}"} | row)
    show(report)
    measure.write(arguments.json, report)


def measured(arguments: argparse.Namespace) -> list[dict]:
    """Rows of all candidates of a run, and of random halves of them."""
    macs, right, batch, calibration = answers(arguments)
    about = {"batch": batch, "calibration": calibration}
    rows = [{"setting": "measured"} | replay(macs, right, arguments, **about)]
    half = {"setting": "measured, halves"}
    return [*rows, half | replay(macs, right, arguments, halves=True, **about)]


def answers(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, int, int]:
    """MACs `[N]`, what is right bool `[N, K]`, the batch, and calibration images of a candidate."""
    types = config.load_file(arguments.config)[1] if arguments.config else None
    opened = run.open_run(arguments.run, types)
    settings = opened.experiment.config
    limited = dataclasses.replace(settings.evaluation, limit=arguments.images)
    built = opened.experiment._replace(config=dataclasses.replace(settings, evaluation=limited))
    opened = opened._replace(experiment=built)
    drawn = choices.sample(built.space.menu, jax.random.key(0), (2 * arguments.candidates,))
    found = space.distinct(built.space, choices.unstack(drawn))[: arguments.candidates]
    book = Book(opened, "held-out", found, file=arguments.book)
    everyone = np.arange(len(found))
    known = np.flatnonzero(book.answers.known.all(1))
    asked = known if arguments.known else everyone
    start = time.perf_counter()
    full, done = len(asked) * book.total, len(known) * book.total
    with progress.bar("evaluating", full, done=done, unit="image") as advance:
        right = book.look(asked, np.arange(book.total), 0, book.total, advance)
    book.save()
    if fresh := len(asked) - len(known):
        print(f"{fresh} candidates evaluated in {time.perf_counter() - start:,.0f} s")
    accuracy = right.mean(1)
    print(
        f"accuracies {accuracy.min():.2%} to {accuracy.max():.2%}, standard deviation "
        f"{accuracy.std():.2%}; two candidates differ on {disagreement(right):.1%} of the images"
    )
    macs = np.asarray(costs.macs(built.space)(choices.stack(found)), np.float64)[asked]
    return macs, right, book.batch, book.calibration


def disagreement(right: np.ndarray) -> float:
    """Share of images that just one of two candidates gets right, mean over all pairs."""
    n, share = len(right), right.mean(0)
    return float(np.mean(2 * share * (1 - share)) * n / max(n - 1, 1))


def simulated(
    model: tuple[float, float, float, float, int], n: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Costs `[N]` and what is right bool `[N, K]` of a made-up supernet."""
    mean, rise, spread, noise, images = model
    rng = np.random.default_rng(seed)
    place = np.arange(n) / max(n - 1, 1)
    accuracy = np.clip(mean + rise * (place - 0.5) + spread * rng.normal(size=n), 0.01, 0.99)
    quantile = statistics.NormalDist().inv_cdf
    ability = np.array([quantile(a) for a in accuracy]) * math.sqrt(1 + noise**2)
    difficulty = rng.normal(size=images).astype(np.float32)
    own = noise * rng.standard_normal((n, images), np.float32)
    return place, ability[:, None] - difficulty + own > 0


def replay(
    macs: np.ndarray,
    right: np.ndarray,
    arguments: argparse.Namespace,
    *,
    batch: int,
    calibration: int,
    halves: bool = False,
) -> dict:
    """Races in many orders of the images, and how often the front was another."""
    shares, whole_ones, fronts, wrong, seconds = [], [], [], 0, []
    for seed in range(arguments.seeds):
        rng = np.random.default_rng(seed + 1)
        some = np.sort(rng.permutation(len(macs))[: len(macs) // 2 if halves else None])
        mine, answer = macs[some], right[some]
        start = time.perf_counter()
        raced = race(
            mine,
            lambda who, order, first, end, answer=answer: answer[np.ix_(who, order[first:end])],
            total=answer.shape[1],
            error=arguments.error,
            batch=batch,
            seed=seed,
        )
        seconds.append(time.perf_counter() - start)
        full = pareto_front(np.stack([answer.sum(1), -mine], axis=1))
        wrong += not np.array_equal(full, raced.front)
        fronts.append(len(full))
        shares.append(raced.examples.sum() / answer.size)
        whole_ones.append(np.mean(raced.examples == answer.shape[1]))
    whole = right.shape[1]
    share = statistics.mean(shares)
    return {
        "candidates": len(mine),
        "images": whole,
        "spread": float(right.mean(1).std()),
        "front": statistics.mean(fronts),
        "share": share,
        "low": min(shares),
        "high": max(shares),
        "saw_all": float(statistics.mean(whole_ones)),
        "with_calibration": (share * whole + calibration) / (whole + calibration),
        "calibration": calibration,
        "races": arguments.seeds,
        "same_front": arguments.seeds - wrong,
        "error": wrong / arguments.seeds,
        "stated": arguments.error,
        "statistics_s": statistics.median(seconds),
    }


def show(report: list[dict]) -> None:
    """Prints the report as a table."""
    columns = {
        "setting": "",
        "candidates": "candidates",
        "images": "images",
        "spread": "sd of accuracy",
        "front": "front",
        "share": "share of images",
        "low": "from",
        "high": "to",
        "saw_all": "saw all",
        "with_calibration": "with calibration",
        "races": "races",
        "same_front": "same front",
        "stated": "stated error",
        "statistics_s": "statistics, s",
    }
    measure.table(list(columns.values()), [[row[key] for key in columns] for row in report])


if __name__ == "__main__":
    main()

"""Subnets evaluated per second by a farm of 1, 2 and 4 workers of Ray, beside none.

    python benchmarks/farm.py --quick
    python benchmarks/farm.py --run runs/cifar10 --candidates 400     # pip install ".[ray]"

Each row is a process of its own, on this machine alone. "Start" is the time until all workers have
opened the run, "first" that of the first chunk of each, in which programs are compiled or read from
disk. What is timed then are candidates that nobody has seen, whose results are not kept. Workers
share the cores of this machine, so that nothing is to be won where there are fewer cores than one
process uses by itself; what a farm costs is what there is to see.
"""

import json
import pathlib
import tempfile
import time

import measure

import supernet_jax as sj
from supernet_jax.elastic.space import distinct
from supernet_jax.experiment import farm, results
from supernet_jax.runtime.farm import cores

STEPS = 20  # of the run that is trained where none is given: weights do not matter


def main() -> None:
    """Measures and prints, or is one of the processes."""
    if measure.is_child():
        print(json.dumps(evaluated(*measure.asked())))
        return
    parser = measure.parser(__doc__)
    parser.add_argument("--run", help="(default: the digits, hardly trained)")
    parser.add_argument("--candidates", type=int, default=400)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    arguments = parser.parse_args()
    count = 64 if arguments.quick else arguments.candidates
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or str(trained(pathlib.Path(folder) / "run"))
        rows = [
            measure.fresh(__file__, [run, workers, count], JAX_NUM_CPU_DEVICES="1")
            for workers in arguments.workers
        ]
    for row in rows:
        row["ratio"] = row["per_second"] / rows[0]["per_second"]
    columns = ["workers", "cores each", "start, s", "first, s", "candidates", "per second", "ratio"]
    measure.table(columns, [list(row.values()) for row in rows])
    measure.write(arguments.json, rows)


def trained(folder):
    """A run of the digits."""
    config = sj.Config(space=sj.spaces.Digits(), train=sj.Train(steps=STEPS))
    return sj.train(config, folder).folder


def evaluated(folder, workers, count):
    """A row of the table."""
    run = sj.open_run(folder)
    chunk = run.config.evaluation.chunk
    first = chunk * max(workers, 1)
    archs = distinct(run.space, sj.sample(run.space, first + count, seed=0))
    with farm.hired(workers or None, run, "held-out") as evaluator:
        scorer = results.Scorer(run, "held-out", what="", keep=False, evaluator=evaluator)
        begun = time.perf_counter()
        if evaluator is not None:
            evaluator.start()
        ready = time.perf_counter()
        scorer(archs[:first])
        compiled = time.perf_counter()
        scorer(archs[first:])
        done = time.perf_counter()
    new = len(archs) - first
    return {
        "workers": workers,
        "cores": max(1, cores() // workers) if workers else cores(),
        "start_s": ready - begun,
        "first_s": compiled - ready,
        "candidates": new,
        "per_second": new / (done - compiled),
    }


if __name__ == "__main__":
    main()

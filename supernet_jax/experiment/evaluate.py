"""`sj.evaluate`: subnets of a run, calibrated and evaluated, as far as they are not known yet."""

import os
from typing import Any

from supernet_jax.errors import one_of
from supernet_jax.experiment import farm as experiment_farm
from supernet_jax.experiment import results
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.read_archs import archs_of
from supernet_jax.experiment.run import Run
from supernet_jax.runtime import distributed
from supernet_jax.runtime.farm import Farm
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded

SPLITS = ("held-out", "test")


def evaluate(
    run: Run | str | os.PathLike[str],
    archs: Any,
    *,
    split: str = "held-out",
    out: str | os.PathLike[str] | None = None,
    farm: Farm | int | str | None = None,
) -> list[dict[str, Any]]:
    """Calibrates and evaluates subnets; what the run's folder knows is not computed again.

    Args:
        run: a trained run, or its folder.
        archs: an arch, its notation, a record, an entry of a front, a list of such, or the text
            `smallest`, `largest`, `argmax` or `sampled:SEED` (of a run whose sampler learned a
            code), or the path of a JSON file.
        split: "held-out" (taken from the training images) or "test".
        out: also write the results to this JSON file; needed where nothing can be kept in the
            run's folder.
        farm: computes on several processors or machines by Ray: a number of workers for this
            machine, "auto" or "HOST:PORT" for a cluster, or an engine of your own; see
            docs/farm.md. The records are the same.

    Returns:
        A record for each arch in their order, as `evaluations.jsonl` has them: "arch" in the
        notation of the space, "accuracy" in [0, 1], "loss" in nats (None where it is not a number),
        "macs", "parameters", and what they were measured under: "space", "checkpoint", "split",
        "images", "data", "calibration" (batches, and images in each), "dtype".

    Raises:
        UserError: no such run, arch, split or farm; a file cannot be read or written.
        NoWorkers: all workers of the farm are gone; what they finished is kept.
    """
    one_of("--split", split, SPLITS)
    experiment_farm.check(farm)
    place = None if out is None else expanded(out)
    if place is not None:
        distributed.once(lambda: files.check_free("--out", place))
    run = experiment_run.opened(run)
    given = archs_of(run, archs)
    with experiment_farm.hired(farm, run, split) as evaluator:
        scorer = results.Scorer(run, split, evaluator=evaluator)
        scorer.keep = not scorer.lacks(given) or results.are_kept(run, place)
        records = scorer(given)
    if place is not None:
        if scorer.keep:  # it was free when this began; what is known is not computed again
            distributed.once(lambda: files.check_free("--out", place))
        distributed.once(lambda: files.write_json(place, records))
    return records

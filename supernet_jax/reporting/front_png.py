"""A picture of a search: everything that was scored, and the front."""

import pathlib
from typing import Any

import matplotlib.figure
import matplotlib.ticker

from supernet_jax.storage import files


def draw(path: pathlib.Path, result: dict[str, Any]) -> None:
    """Draws a search result as PNG.

    Args:
        path: of the picture; replaced if it exists.
        result: as `search.json` holds it: "all" as (cost, accuracy) pairs, the accuracy None of
            those that are on no front, "front" as records, "cost" and "unit". A record with
            "test_accuracy" gets a second mark.

    Raises:
        UserError: the picture cannot be written.
    """
    figure = matplotlib.figure.Figure(figsize=(7.0, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    xs, ys = zip(*(pair for pair in result["all"] if pair[1] is not None), strict=True)
    axes.scatter(xs, [100 * y for y in ys], s=10, color="0.75", label="scored")
    cost = [entry[result["cost"]] for entry in result["front"]]
    held_out = [100 * entry["accuracy"] for entry in result["front"]]
    axes.plot(
        cost,
        held_out,
        "o-",
        drawstyle="steps-post",
        color="tab:blue",
        markersize=4,
        label="front, held-out images",
    )
    tested = [entry for entry in result["front"] if "test_accuracy" in entry]
    if tested:
        axes.plot(
            [entry[result["cost"]] for entry in tested],
            [100 * entry["test_accuracy"] for entry in tested],
            "D",
            color="tab:orange",
            markersize=6,
            label="extracted, test images",
        )
    if max(xs) >= 1000:  # counts; milliseconds need no prefix
        axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter())
    axes.set_xlabel(result["unit"])
    axes.set_ylabel("accuracy, %")
    axes.set_title(f"{result['space']}: {result['evaluations']} subnets, {result['algorithm']}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    files.write_bytes(path, lambda file: figure.savefig(file, format="png"))

"""What a search found, as pictures for loggers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from supernet_jax.errors import LOG
from supernet_jax.experiment.front import Front
from supernet_jax.reporting.loggers.logger import Logger
from supernet_jax.storage import user_code

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # whose import takes time that a training need not


def log_front(loggers: Sequence[Logger], front: Front, step: int) -> None:
    """Logs the picture of a front, and a histogram of the metric of all that was scored.

    A logger that fails is left out with a warning.

    Args:
        loggers: to log to.
        front: that a search found.
        step: of the checkpoint that was searched.
    """
    if not loggers:
        return
    from matplotlib.figure import Figure

    histogram = Figure(figsize=(7.0, 4.0), dpi=150, layout="constrained")
    front.plot_scores(histogram.subplots())
    drawn = {"search/front": front.figure(), "search/scores": histogram}
    for logger in loggers:
        try:
            for name, figure in drawn.items():
                logger.image(name, _pixels(figure), step)
        except Exception as error:  # clients of others raise anything
            text = user_code.told(error, None)
            LOG.warning(f"warning: {logger.name} got no pictures of the search ({text})")


def _pixels(figure: "Figure") -> np.ndarray:
    """A picture, uint8 `[height, width, 3]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

"""Batches of a run, by step: read ahead, on the mesh; those of a second part beside them."""

import functools
from collections.abc import Generator
from typing import Any

from jax.sharding import Mesh

from supernet_jax import data
from supernet_jax.runtime import sharding
from supernet_jax.training.recipe import Batch


class Batches:
    """The batches of a run, from any step on; those to come are read ahead."""

    def __init__(
        self,
        examples: data.Images,
        *,
        batch: int,
        mesh: Mesh,
        seed: int,
        stop: int,
        reading: data.Reading,
        second: data.Images | None = None,
    ):
        self._mesh, self._batch, self._seed = mesh, batch, seed
        self._rows = sharding.own_rows(mesh, batch)
        how: Any = {"stop": stop, "rows": self._rows, "reading": reading}
        self._from = [
            functools.partial(data.feed, part, batch, **how)
            for part in (examples, second)
            if part is not None
        ]
        self._feeds: list[Generator[data.Examples, None, None]] = []

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        for feed in self._feeds:
            feed.close()

    def go_to(self, step: int, rollbacks: int) -> None:
        """The next batch will be that of this step."""
        self.__exit__()
        # After a rollback the order of the data is another one, as are archs and augmentation.
        seed = self._seed + 1_000_003 * rollbacks
        self._feeds = [begin(seed=seed, start=step) for begin in self._from]

    def next(self) -> Batch:
        """The batch of the next step, on the mesh."""
        first, *second = [Batch(*next(feed)) for feed in self._feeds]
        host = first._replace(second=second[0]) if second else first
        return sharding.split_rows(self._mesh, host, rows=self._rows, count=self._batch)

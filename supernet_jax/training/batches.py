"""Batches of a run, by step: read ahead, on the mesh."""

import functools
from collections.abc import Generator

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
    ):
        self._mesh, self._batch, self._seed = mesh, batch, seed
        self._rows = sharding.own_rows(mesh, batch)
        self._from = functools.partial(
            data.feed, examples, batch, stop=stop, rows=self._rows, reading=reading
        )
        self._feed: Generator[data.Examples, None, None] | None = None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        if self._feed is not None:
            self._feed.close()

    def go_to(self, step: int, rollbacks: int) -> None:
        """The next batch will be that of this step."""
        self.__exit__()
        # After a rollback the order of the data is another one, as are archs and augmentation.
        self._feed = self._from(seed=self._seed + 1_000_003 * rollbacks, start=step)

    def next(self) -> Batch:
        """The batch of the next step, on the mesh."""
        assert self._feed is not None
        host = Batch(*next(self._feed))
        return sharding.split_rows(self._mesh, host, rows=self._rows, count=self._batch)

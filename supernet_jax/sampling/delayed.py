"""Only the largest subnet at first."""

from supernet_jax.sampling.hook import Sampler, active


def delayed(inner: Sampler, *, start: int) -> Sampler:
    """Delayed shrinking (DepS, arXiv 2407.06167): before step `start` only the largest trains.

    The paper starts when the largest is half trained, with the sandwich rule. Its learning rates of
    the subnets, which rise after the start, are a matter of combining gradients, not of a sampler.

    Args:
        inner: what trains from `start` on; its first fixed member is the largest.
        start: step from which on subnets train.

    Raises:
        ValueError: `inner` has no fixed member.
    """
    if not inner.fixed:
        raise ValueError("delayed(inner) needs an inner sampler with the largest as fixed member")
    return inner._replace(members=lambda step: 1 if step < start else active(inner, step))

"""What settings of spaces may be."""

from supernet_jax.errors import require


def require_resolutions(resolutions: tuple[int, ...], low: int) -> None:
    """Raises a `UserError` unless there are sizes and each has at least `low` pixels."""
    require(
        bool(resolutions) and min(resolutions) >= low,
        f"space.resolutions is {resolutions}; give sizes of at least {low} pixels",
    )


def require_rates(dropout: float, drop_path: float = 0.0) -> None:
    """Raises a `UserError` unless both are at least 0 and below 1."""
    for name, rate in (("dropout", dropout), ("drop-path", drop_path)):
        require(0 <= rate < 1, f"space.{name} is {rate}, but must be in [0, 1)")

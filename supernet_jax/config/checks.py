"""What a setting may be."""

from supernet_jax.errors import UserError


def require(condition: bool, message: str) -> None:
    """Raises a `UserError` unless the condition holds."""
    if not condition:
        raise UserError(message)

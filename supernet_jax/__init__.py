"""Weight-sharing supernets in JAX: train once, search, and take any subnet away."""

__version__ = "0.1.0"

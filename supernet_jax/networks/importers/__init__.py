"""Weights of other libraries and of ordinary networks, taken into a supernet, one source a file."""

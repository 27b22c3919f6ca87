"""Ordinary networks: taken out of a supernet, saved, proven, timed, written and read."""

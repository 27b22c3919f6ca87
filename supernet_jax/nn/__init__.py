"""Ordinary Flax layers and blocks, and the shapes they have. Nothing here knows of supernets."""

"""Weights that were trained elsewhere, brought into the library; one file per family."""

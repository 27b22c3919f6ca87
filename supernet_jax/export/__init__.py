"""Formats in which an extracted network leaves the library, one file each."""

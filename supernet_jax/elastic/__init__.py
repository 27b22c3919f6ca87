"""Decisions, elastic blocks, masks, and the ways to run a subnet of shared parameters."""

"""Compute: where stages run."""

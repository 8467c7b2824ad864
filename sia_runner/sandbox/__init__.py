"""Sandboxes, in which harnesses run."""

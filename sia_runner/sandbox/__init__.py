"""Sandboxes: where a harness runs."""

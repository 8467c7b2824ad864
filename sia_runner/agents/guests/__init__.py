"""Agents of other packages as proposers: they run inside our sandbox, as a harness does."""

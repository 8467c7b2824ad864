"""Agents of other packages as proposers: each runs inside our sandbox, as a harness does."""

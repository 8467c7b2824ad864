"""The adapters that runs have trained: list, show, check, merge, export."""

"""The files of a run: run directory, journal, leases, and bounded readers of hostile files."""

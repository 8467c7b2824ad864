"""Trackers: where figures go while a run is under way."""

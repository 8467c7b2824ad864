"""The schema of an experiment: a module for each part; config.py puts them together."""

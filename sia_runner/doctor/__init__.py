"""The doctor: checks, one line each, whether an experiment would run on this machine."""

"""Composition turns YAML and the command line into a checked experiment, or into a one-line refusal."""

"""The typed schema of an experiment, its composition from YAML, and refusals."""

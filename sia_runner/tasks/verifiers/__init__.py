"""The common verifiers, which YAML names."""

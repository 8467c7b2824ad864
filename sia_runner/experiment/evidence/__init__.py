"""The evidence of a generation: all that a proposer may read."""

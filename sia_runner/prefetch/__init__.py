"""All that a run would fetch or build, fetched before it starts."""

"""sia-agent's profiles and providers as choices of ours."""

"""The weights lever: adapters trained by reinforcement on rollouts of the harness itself."""

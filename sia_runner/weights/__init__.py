"""The weights lever: whether to pull it, with which algorithm, and one update from rollouts to adapter."""

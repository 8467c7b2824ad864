"""The weights lever: when to pull it, and one update."""

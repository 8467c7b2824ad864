"""Tasks: load a task folder, cut splits, write views, run verifiers, prepare data."""

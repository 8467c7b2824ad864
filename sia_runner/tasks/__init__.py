"""Tasks: load a task folder, cut splits, lay out views, run verifiers."""

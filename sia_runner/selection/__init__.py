"""Statistics and rules: scores with intervals, accept rules, parents, levers and algorithms."""

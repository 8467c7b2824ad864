"""The weights lever's training: drivers, algorithms and adapters."""

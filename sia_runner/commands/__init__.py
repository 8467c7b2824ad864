"""The commands of `sia-runner COMMAND`, one module each."""

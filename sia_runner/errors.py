"""The root of all errors that refuse an experiment before it starts."""


class RunnerError(Exception):
    """An experiment that cannot start as configured. The message is one line for the user (exit code 2)."""


class TrainingError(Exception):
    """Training is impossible as configured; the message is one line for the user or the proposer."""

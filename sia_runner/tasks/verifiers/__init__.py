"""Common verifiers: judge a submission against gold answers, in the worker process, with the standard library only."""

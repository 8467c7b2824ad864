"""One candidate's way to its outcomes: harness written and checked, run in the sandbox, judged by the verifier."""

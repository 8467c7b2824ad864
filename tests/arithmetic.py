"""The task of whole runs with a tiny policy, made small where how well it learns is not what is tested."""

# 28 dev and 56 val questions: the rest of a generation is training and test. One list, so that tests share one policy.
SMALL = ["task.splits.dev=0.02", "task.splits.val=0.04"]

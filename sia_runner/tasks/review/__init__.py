"""Looks at a task as somebody would who wants a score without doing the work.

finding.py    what is wrong, where, and how to mend it       subject.py   the task under review: its views, its judge
seen.py       gold answers that a harness can read           records.py   rows of any text file: CSV, JSON, lines
columns.py    columns and ids that tell the answer           splitting.py near-duplicates, groups, too few questions
gaming.py     submissions that earn without an answer        hostile.py   submissions that must not break the judge
judging.py    whether the judge keeps its contract
"""

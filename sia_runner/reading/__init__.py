"""What run directories say: typed, bounded, incremental, and read only. The report and the dashboard look through this.

A run may still go on, be cut in the middle of a line, be damaged, or hold what a hostile program wrote. So nothing
here raises for what is in a run directory: what cannot be read is None, empty, or named in a `fault`. Links are not
followed.

files.py         bounded reads of one file           lines.py         JSON lines, from where they were read last
index.py         all runs below a folder             run.py           one run: everything below, kept up to date
journal.py       entries, jobs                       generations.py   finished and under way, decisions
answers.py       questions by outcome, model calls   harnesses.py     files, differences between two generations
curves.py        training                            logs.py          names and tails
spending.py      budget and ledger                   alive.py         does its process still work?
"""

"""Readers of run directories for the report and the dashboard: typed, bounded, incremental, and read only.

A run may still go on, be cut in the middle of a line, be damaged, or hold what a hostile program wrote. So nothing
here raises for what is in a run directory: what cannot be read is None, empty, or named in a `fault`. Links are not
followed.

opening.py       no links, no pipes                  files.py         bounded reads of one file
lines.py         JSON lines as they grow             finding.py       where runs are
index.py         a row of each run                   run.py           one run: everything below, kept up to date
configs.py       config.yaml                         journal.py       entries, jobs
generations.py   finished and under way              harnesses.py     files, differences between two generations
questions.py     by outcome                          answers.py       the model calls made for each
curves.py        training                            logs.py          names and tails
spending.py      budget and ledger                   alive.py         does its process still work?
"""

"""SIA-H against SIA-W+H over finished and unfinished runs: one HTML file, a table for a paper, CSV, a W&B Report.

found.py      which runs are meant            runs.py kept.py   what one run says
groups.py     task, test set, arms            statistics.py  means over seeds, Holm, verdicts
contrasts.py  W+H against H, paired           gains.py       what each run gained, and what a point cost
paper.py      the table, Markdown and LaTeX   captions.py    what stands under it
published.py  figures of others               changes.py    what accepted candidates did
charts.py tested.py differences.py   inline SVG (axes.py svg.py): val, test, pairs
sections.py   all of that, group by group     page.py templates/   the HTML page
spreadsheets.py  CSV                          workspace.py   the W&B Report

Reads run directories through `sia_runner.reading` and starts nothing. All that is shown was written by models and
harnesses: bounded, escaped, and in a page that runs no script.
"""

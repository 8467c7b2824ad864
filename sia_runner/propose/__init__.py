"""Makes proposals: chooses the candidate to extend, asks its proposer, and provides its workbench."""

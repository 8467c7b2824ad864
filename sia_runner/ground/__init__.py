"""Files, processes, the journal and numbers. Imports no component; every component may import it."""

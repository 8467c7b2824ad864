"""The ground: files, processes, the journal and numbers. Imports no room; everything above may import it."""

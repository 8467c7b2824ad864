"""One module for each training algorithm."""

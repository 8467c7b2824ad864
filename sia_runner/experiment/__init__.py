"""One run: its loop, its stages, and what they are made of."""

"""Readers of run directories: they change nothing."""

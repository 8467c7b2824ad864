"""Sweeps: composed by Hydra, carried out here or as jobs, resumed, and shown as a table."""

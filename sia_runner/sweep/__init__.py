"""Sweeps: many runs, composed by Hydra, carried out here or as jobs, resumed and summarised."""

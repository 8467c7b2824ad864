"""The forecast of what a run may cost, before it spends anything."""

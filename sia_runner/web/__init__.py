"""The live dashboard: reads run directories and shows them, changes nothing. `python -m sia_runner.web --help`."""

"""From YAML and the command line to a checked experiment, or to one line that says what is wrong."""

"""What an experiment may say: a module for each part of the schema that config.py puts together."""

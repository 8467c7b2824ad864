"""Would this experiment run, here and now? Each check answers in a line."""

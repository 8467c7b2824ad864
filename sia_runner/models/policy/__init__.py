"""A model of our own behind the gateway: one copy of the weights in this process, sampled and trained in turns."""

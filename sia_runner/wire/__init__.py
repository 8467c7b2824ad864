"""Model requests, answers and failures as data, in the protocols that clients and providers speak."""

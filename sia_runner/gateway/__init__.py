"""The gateway: the only way to a model, with budget, ledger and retries."""

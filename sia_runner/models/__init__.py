"""The only way to a model: gateway, providers, ledger, cache."""

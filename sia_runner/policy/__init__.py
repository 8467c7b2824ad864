"""The policy: a base model with adapters, which the gateway serves and the trainer updates."""

"""Sandbox: where a harness runs."""

"""Proposers: what suggests the next candidate."""

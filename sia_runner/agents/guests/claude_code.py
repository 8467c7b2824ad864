"""Runs Claude Code as a proposer (meta_agent=claude_code), by its SDK, whose wheel brings the program."""

from sia_runner.agents.guests.guest import Guest


class ClaudeCode(Guest):
    """Claude Code as a guest."""

    name = "claude_code"
    needs = ("claude_agent_sdk",)

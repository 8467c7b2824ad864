"""meta_agent=claude_code: Claude Code, by its SDK, whose wheel brings the program."""

from sia_runner.agents.guests.guest import Guest


class ClaudeCode(Guest):
    name = "claude_code"
    needs = ("claude_agent_sdk",)

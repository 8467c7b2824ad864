"""Drives Claude Code with claude-agent-sdk: its own tools and system prompt, our instructions."""

# Its package is an extra and may be missing where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import asyncio
import os

from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, query
from workspace import Workspace

_TOOLS = ["Read", "Write", "Edit", "Glob", "Grep", "Bash"]
# The gateway serves its one model under any name; the name only tells Claude Code which features it may use. With an
# unknown model it uses the newest features; with this one, only those that can be translated for other models.
_PLAIN = "claude-sonnet-4-5"


def _environment(space: Workspace) -> dict[str, str]:
    return {
        "CLAUDE_CONFIG_DIR": os.fspath(space.work / ".claude"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",  # no telemetry, no updates, no calls for titles
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
        "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": "1",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "16384",
        "CLAUDE_CODE_MAX_RETRIES": "2",  # the gateway has retried already
    }


def _options(space: Workspace) -> ClaudeAgentOptions:
    is_claude = space.model.startswith("claude-")
    return ClaudeAgentOptions(
        model=space.model if is_claude else _PLAIN,
        thinking=None if is_claude else {"type": "disabled"},
        cwd=space.work,
        add_dirs=[space.evidence],
        tools=_TOOLS,
        allowed_tools=_TOOLS,
        permission_mode="dontAsk",  # refuse all other tools: nobody can answer a question
        system_prompt={"type": "preset", "preset": "claude_code"},
        max_turns=space.turns,
        setting_sources=[],  # a harness may contain a CLAUDE.md or hooks, which must not become settings
        strict_mcp_config=True,
        skills=[],
        verbatim_prompts=True,  # an @ in the prompt does not mean a file
        env=_environment(space),
    )


async def _work(space: Workspace) -> tuple[str, str]:
    result = None
    try:
        async for message in query(prompt=space.prompt, options=_options(space)):
            result = message if isinstance(message, ResultMessage) else result
    except Exception:
        if result is None:  # a result reports its own error in more detail
            raise
    if result is None:
        return "", "it ended without a result"
    if result.is_error or result.subtype != "success":
        return "", result.result or "; ".join(result.errors or []) or result.subtype
    return result.result or "", ""


def work(space: Workspace) -> tuple[str, str]:
    """Run the agent. Return its last message and why it was cut short."""
    return asyncio.run(_work(space))

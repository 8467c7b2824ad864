"""Claude Code, driven by claude-agent-sdk: its own tools and system prompt, our instructions."""

# Its package is an extra: where it is not installed, nothing of it can be checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import asyncio
import os

from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, query
from workspace import Workspace

_TOOLS = ["Read", "Write", "Edit", "Glob", "Grep", "Bash"]
# The gateway serves its one model whatever a request names; the name only tells Claude Code what it may ask for. Of a
# model that it does not know it expects the newest features; of this one, nothing that others could not translate.
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
    known = space.model.startswith("claude-")
    return ClaudeAgentOptions(
        model=space.model if known else _PLAIN,
        thinking=None if known else {"type": "disabled"},
        cwd=space.work,
        add_dirs=[space.evidence],
        tools=_TOOLS,
        allowed_tools=_TOOLS,
        permission_mode="dontAsk",  # what is not allowed above is refused: nobody is there to be asked
        system_prompt={"type": "preset", "preset": "claude_code"},
        max_turns=space.turns,
        setting_sources=[],  # a harness may hold a CLAUDE.md or hooks: they are text to it, not settings
        strict_mcp_config=True,
        skills=[],
        verbatim_prompts=True,  # an @ in it is no wish to have a file read in
        env=_environment(space),
    )


async def _work(space: Workspace) -> tuple[str, str]:
    result = None
    try:
        async for message in query(prompt=space.prompt, options=_options(space)):
            result = message if isinstance(message, ResultMessage) else result
    except Exception:
        if result is None:  # else that is the result's own error, which says more
            raise
    if result is None:
        return "", "it ended without a result"
    if result.is_error or result.subtype != "success":
        return "", result.result or "; ".join(result.errors or []) or result.subtype
    return result.result or "", ""


def work(space: Workspace) -> tuple[str, str]:
    """The agent's last words, and why it was cut short."""
    return asyncio.run(_work(space))

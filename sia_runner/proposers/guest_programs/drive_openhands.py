"""Drives an OpenHands agent with its file editor and its terminal."""

# Its package is an extra and may be missing where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import os

os.environ["OPENHANDS_SUPPRESS_BANNER"] = "1"  # both are read by the imports below
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise it needs the network

from openhands.sdk import LLM, Agent, Conversation, Tool
from openhands.sdk.conversation.response_utils import get_agent_final_response
from openhands.sdk.conversation.state import ConversationExecutionStatus
from openhands.sdk.event.conversation_error import ConversationErrorEvent
from openhands.tools.file_editor import FileEditorTool
from openhands.tools.terminal import TerminalTool
from workspace import Workspace


def _agent(space: Workspace) -> Agent:
    model = LLM(
        model=f"openai/{space.model}",  # litellm's prefix for any server of OpenAI's chat completions
        base_url=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
        num_retries=0,  # the gateway retries
        reasoning_effort=None,  # any model may stand behind the gateway
        usage_id="guest",
    )
    tools = [Tool(name=FileEditorTool.name)]
    if _pseudo_terminals():
        tools.append(Tool(name=TerminalTool.name, params={"terminal_type": "subprocess"}))  # tmux may not be there
    return Agent(llm=model, tools=tools)


def _pseudo_terminals() -> bool:
    """Return whether the sandbox has pseudo-terminals; without them the agent gets no terminal tool."""
    try:
        for end in os.openpty():
            os.close(end)
    except OSError:
        return False
    return True


def work(space: Workspace) -> tuple[str, str]:
    """Run the agent. Return its last message and why it was cut short."""
    conversation = Conversation(
        agent=_agent(space),
        workspace=os.fspath(space.work),
        max_iteration_per_run=space.turns,
        visualizer=None,
    )
    try:
        conversation.send_message(space.prompt)
        conversation.run()
        events = conversation.state.events
        faults = [f"{event.code}: {event.detail}" for event in events if isinstance(event, ConversationErrorEvent)]
        if conversation.state.execution_status == ConversationExecutionStatus.FINISHED:
            return get_agent_final_response(events), ""
        return "", faults[-1] if faults else f"it stopped as {conversation.state.execution_status.value}"
    finally:
        conversation.close()

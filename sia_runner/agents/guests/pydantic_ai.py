"""Runs a Pydantic AI agent with file tools and a shell as a proposer (meta_agent=pydantic_ai)."""

from sia_runner.agents.guests.guest import Guest


class PydanticAI(Guest):
    """A Pydantic AI agent as a guest."""

    name = "pydantic_ai"
    needs = ("pydantic_ai", "openai")

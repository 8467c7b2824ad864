"""meta_agent=pydantic_ai: a Pydantic AI agent with file tools and a shell."""

from sia_runner.agents.guests.guest import Guest


class PydanticAI(Guest):
    name = "pydantic_ai"
    needs = ("pydantic_ai", "openai")

"""meta_agent=llm: a language model writes and improves the harness, with tools, in one bounded loop."""

"""The language-model proposer (meta_agent=llm): it writes and improves the harness with tools, in one bounded loop."""

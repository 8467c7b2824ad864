"""The command that fetches everything a run would download or build."""

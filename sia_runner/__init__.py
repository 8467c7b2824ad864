"""SIA Runner: self-improving-AI experiments as configurations. See docs/architecture.md."""

__version__ = "0.1.0"

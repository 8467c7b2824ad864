"""The toy as a base on disk: what it is asked as text, so that a policy's own way to tokens can be taken."""

from pathlib import Path
from typing import Any

from tests.training import toy


def on_disk(model: Any, folder: Path) -> Path:
    """As transformers saves it, with a tokenizer whose chats are the toy's prompts."""
    model.save_pretrained(folder)
    tokenizer = toy.small_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


def text_of(unit: str) -> str:
    names = ["<pad>", "<eos>", "<bos>", "ask"]
    return " ".join(names[token] if token < len(names) else f"t{token}" for token in toy.prompt_of(unit))

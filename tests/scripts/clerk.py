"""A scripted model for agents with tools of their own: it reads the questions, writes the answers, and is done."""

import re

from tests.provider import Answer, Request


def reply(request: Request) -> Answer:
    """The task names two files, as agents of the sia-agent package are told them: one to read, one to write."""
    if "write_file" not in request.tools:
        return Answer("I have no tools.")
    source, goal = (re.search(rf"{word} (\S+\.csv)", request.text)[1] for word in ("Read", "Write"))  # type: ignore[index]
    results = [message["content"] for message in request.messages if message["role"] == "tool"]
    if not results:
        return Answer("I look at the questions first.", (("read_file", {"path": source}),))
    if len(results) == 1:
        return Answer("Now I answer them.", (("write_file", {"path": goal, "content": answers(results[0])}),))
    if len(results) == 2:
        return Answer("", (("bash", {"command": f"wc -l < {goal}"}),))
    return Answer(f"All questions are answered in {goal}.")


def answers(questions: str) -> str:
    """Even or odd, by the last digit."""
    rows = [line.split(",") for line in questions.split()[1:]]
    return "id,label\n" + "".join(f"{unit},{'even' if int(number) % 2 == 0 else 'odd'}\n" for unit, number in rows)

"""A model that is asked for a kernel: a block that does not parse first, then the task's fused recipe."""

from sia_runner.system import bundled_folder
from tests.provider import Answer, Request


def reply(request: Request) -> Answer:
    if len(request.messages) == 1:
        return Answer("```python\ndef custom_kernel(data:\n```")
    source = (
        (bundled_folder("tasks") / "trimul" / "recipes" / "fused.py").read_text().partition("\n# submission.py\n")[2]
    )
    return Answer(f"Here it is:\n\n```python\n{source}```\n")

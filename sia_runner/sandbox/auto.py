"""Choose bubblewrap where it really works, else `process`, whose gaps then say why."""

from sia_runner.sandbox.bubblewrap import Bubblewrap
from sia_runner.sandbox.protocol import Sandbox, SandboxError


def auto() -> Sandbox:
    """Return the stronger of the two sandboxes without an image that works here."""
    sandbox = Bubblewrap()
    try:
        sandbox.check()
    except SandboxError as error:
        from sia_runner.sandbox.process import Process

        return Process(instead_of=str(error))
    return sandbox

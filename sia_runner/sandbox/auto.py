"""auto: bubblewrap where it really works, else `process`, which then says why."""

from sia_runner.sandbox.bubblewrap import Bubblewrap
from sia_runner.sandbox.process import Process
from sia_runner.sandbox.protocol import Sandbox, SandboxError


def auto() -> Sandbox:
    sandbox = Bubblewrap()
    try:
        sandbox.check()
    except SandboxError as error:
        return Process(instead_of=str(error))
    return sandbox

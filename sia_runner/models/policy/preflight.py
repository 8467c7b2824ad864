"""The policy's preflight check, without heavy imports."""

import time

from sia_runner.models.failures import Failed
from sia_runner.models.policy.ask import PolicyError, check_installed
from sia_runner.models.policy.backend import hosted
from sia_runner.models.policy.vllm_api import Server
from sia_runner.models.reachable import SECONDS, Question
from sia_runner.schema.training import PolicySpec


def check(spec: PolicySpec) -> None:
    """Check packages and server. Raises ModelsError, one line.

    Takes little more than SECONDS if the server does not answer.
    """
    check_installed()
    if spec.backend == "vllm":
        Question(hosted(spec)).answer(time.monotonic() + SECONDS)
        server = Server(str(spec.base_url))
        try:
            loads_adapters = server.loads_adapters(SECONDS)
        except Failed as failed:
            raise PolicyError(f"provider vllm: {failed.message}") from None
        if not loads_adapters:
            raise PolicyError(
                f"provider vllm at {server.address} takes no adapters at run time; start it with --enable-lora "
                "--max-lora-rank 32 and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment"
            )

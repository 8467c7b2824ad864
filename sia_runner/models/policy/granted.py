"""The settings that a grant enforces on the policy requests of its account."""

import hashlib
from dataclasses import replace

from sia_runner.models.policy.ask import LIVE, Ask
from sia_runner.models.wire import Asked
from sia_runner.records import Sampled


def granted(call: Asked, request: Ask) -> Ask:
    """Apply the grant's weights, temperature and seed to a request.

    Rollouts are sampled at the training's temperature, each call with its own seed, derived from the grant's seed, the
    question and the number of earlier calls for it. A repeated run samples the same.
    """
    grant = call.grant
    if grant is None:
        return request
    request = replace(request, weights=LIVE if grant.live else grant.adapter)
    if grant.temperature is not None:
        request = replace(request, temperature=grant.temperature, top_p=1.0)
    if grant.seed is not None:
        digest = hashlib.sha256(f"{grant.seed} {call.question} {call.turn}".encode()).digest()
        request = replace(request, seed=int.from_bytes(digest[:4]) >> 1)
    return request


def keep(call: Asked, sampled: Sampled) -> None:
    """Store what was sampled on the request, for the gateway's record."""
    call.sampled = sampled

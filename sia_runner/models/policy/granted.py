"""What a grant decides for the requests made on its account, whatever they ask for themselves."""

import hashlib
from dataclasses import replace

from sia_runner.models.policy.ask import LIVE, Ask
from sia_runner.models.wire import Asked
from sia_runner.records import Sampled


def granted(asked: Asked, ask: Ask) -> Ask:
    """Which weights answer. Rollouts are drawn at the temperature of the training, each call with a seed of its own:
    the grant's, the question, how many calls for it came before. So a run done again draws the same."""
    grant = asked.grant
    if grant is None:
        return ask
    ask = replace(ask, weights=LIVE if grant.live else grant.adapter)
    if grant.temperature is not None:
        ask = replace(ask, temperature=grant.temperature, top_p=1.0)
    if grant.seed is not None:
        digest = hashlib.sha256(f"{grant.seed} {asked.question} {asked.turn}".encode()).digest()
        ask = replace(ask, seed=int.from_bytes(digest[:4]) >> 1)
    return ask


def keep(asked: Asked, sampled: Sampled) -> None:
    asked.sampled = sampled

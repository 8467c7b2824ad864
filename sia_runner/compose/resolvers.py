"""Resolvers that conf/ can interpolate in addition to OmegaConf's."""

from typing import Any


def register() -> None:
    """Register ``${by_base:A,B}``: A if the policy is base=tiny, else B. Call it before Hydra composes."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("by_base", _by_base, replace=True)


def _by_base(tiny: Any, other: Any, *, _root_: Any) -> Any:
    from omegaconf import OmegaConf

    return tiny if OmegaConf.select(_root_, "target_agent.policy.base", default="tiny") == "tiny" else other

"""Directions for parallel proposals: each one but the first gets its own, or all would make the same change."""

from sia_runner.agents.protocol import Brief

_WITH_MODEL = (
    "how the answer is asked for and parsed: invalid, missing and cut answers, formats, extraction",
    "the reasoning before the answer: step by step work, checking it, a second look where the first is unsure",
    "several calls for one question: voting over samples, a critic, splitting the question into parts",
    "work that code does better than a model: computing, searching, verifying a model's answer by program",
    "what the prompt contains: domain knowledge, worked examples, fewer or clearer instructions",
    "which questions need what: sort them by kind and treat each kind in its own way",
)
_WITHOUT_MODEL = (
    "how the input is represented: features, normalisation, what is thrown away",
    "another family of algorithm than the one that is there",
    "combining several weak answers: stacking, voting, calibrated scores",
    "the most frequent confusions: what would tell those two apart",
    "how the data is used: balance, noise, duplicates, augmentation, regularisation",
    "exact or rule-based solutions for the part of the questions that allows them",
)


def of(brief: Brief, calls_model: bool) -> str:
    """Return the direction of this sibling; empty for the first one. It changes with the generation."""
    if not brief.sibling:
        return ""
    directions = _WITH_MODEL if calls_model else _WITHOUT_MODEL
    return directions[(brief.sibling - 1 + brief.n - 1) % len(directions)]

"""How tokens are drawn."""

import math
from collections import Counter

import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from sia_runner.policy.sampling import SamplingRow, draw_tokens, nucleus_filter, uniform_numbers


def row(temperature, top_p, seed, limit=1):
    return SamplingRow((), limit, temperature, top_p, seed)


def probabilities(*values):
    return torch.tensor([values], dtype=torch.float64)


def drawn(logits, count, temperature=1.0, top_p=1.0):
    """How often each token falls when one distribution is drawn from `count` times."""
    one = row(temperature, top_p, "a", count)
    return Counter(draw_tokens(logits, [one], [number])[0][0] for number in uniform_numbers(one))


def test_tokens_fall_as_often_as_softmax_says():
    logits = torch.tensor([[1.0, 0.0, -1.0, -40.0]])
    count = 4000
    counts = drawn(logits, count, temperature=0.7)
    for token, share in enumerate((logits / 0.7).softmax(-1)[0].tolist()):
        error = 4 * math.sqrt(share * (1 - share) / count)
        assert counts[token] / count == pytest.approx(share, abs=error + 1e-12)


def test_a_nucleus_is_the_smallest_set_that_reaches_top_p():
    given = probabilities(0.1, 0.5, 0.15, 0.25)
    for top_p, kept in (
        (0.0, {1}),
        (0.4, {1}),
        (0.6, {1, 3}),
        (0.8, {1, 2, 3}),
        (0.95, {0, 1, 2, 3}),
        (1.0, {0, 1, 2, 3}),
    ):
        cut = nucleus_filter(given, torch.tensor([top_p], dtype=torch.float64))[0]
        assert {token for token in range(4) if cut[token] > 0} == kept, top_p
        assert all(cut[token] == given[0, token] for token in kept)


def test_top_p_leaves_nothing_outside_the_nucleus_to_fall():
    assert set(drawn(torch.tensor([[0.5, 0.4, 0.1, 0.0]]).log(), 500, top_p=0.85)) == {0, 1}


def test_logprobs_are_at_the_rows_temperature_and_before_the_cut():
    logits = torch.tensor([[2.0, 0.0, -1.0]] * 3)
    rows = [row(0.5, 1.0, "a"), row(0.5, 0.1, "a"), row(0.0, 1.0, "a")]
    tokens, logprobs = draw_tokens(logits, rows, [uniform_numbers(one)[0] for one in rows])
    at_half, at_one = (logits[0] / 0.5).log_softmax(-1), logits[0].log_softmax(-1)
    assert tokens[1:] == [0, 0]
    assert logprobs == pytest.approx([at_half[tokens[0]].item(), at_half[0].item(), at_one[0].item()], abs=1e-6)


def test_a_rows_numbers_depend_on_its_seed_alone():
    assert uniform_numbers(row(1.0, 1.0, "me", 5)) == uniform_numbers(row(0.3, 0.5, "me", 90))[:5]
    assert uniform_numbers(row(1.0, 1.0, "me", 5)) != uniform_numbers(row(1.0, 1.0, "you", 5))
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)).repeat(3, 1)
    rows = [row(0.3, 1.0, "x"), row(1.0, 1.0, "me"), row(1.0, 0.5, "y")]
    for number in uniform_numbers(row(1.0, 1.0, "me", 5)):
        assert draw_tokens(logits[:1], rows[1:2], [number])[0][0] == draw_tokens(logits, rows, [0.1, number, 0.9])[0][1]


def test_seeds_that_differ_in_their_high_bits_only_give_other_numbers():
    """torch keeps 32 bits of a seed on the CPU."""
    first, second = (uniform_numbers(row(1.0, 1.0, f"asked {seed}")) for seed in (7, 7 + (1 << 32)))
    assert first != second

"""TRL's forward pass on a CPU: what is scored, and that it is scored right."""

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("trl", reason="the drivers are TRL's")

from trl.trainer import utils

from sia_runner.training.forward import trl_forward


@pytest.fixture
def scored(monkeypatch):
    """How many positions the head was applied to, of each forward pass."""
    counts = []
    whole = utils._ChunkedLogProbFunction

    class Counting:
        @staticmethod
        def apply(hidden, *rest):
            counts.append(len(hidden))
            return whole.apply(hidden, *rest)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Counting)
    return counts


def test_only_the_labelled_positions_are_scored_with_the_right_values_and_gradients(warmed, scored):
    ids_bt = torch.arange(24).reshape(2, 12) % warmed.config.vocab_size
    labels_bt = ids_bt.clone()
    labels_bt[:, :9] = -100
    labels_bt[1, 11] = -100
    trained_bt = labels_bt[:, 1:] != -100

    logits_btv = warmed(input_ids=ids_bt).logits[:, :-1]
    expected_btv = logits_btv.log_softmax(-1)
    expected_bt = expected_btv.gather(-1, ids_bt[:, 1:, None])[..., 0]
    entropy_bt = -(expected_btv.exp() * expected_btv).sum(-1)
    (gradient,) = torch.autograd.grad(expected_bt[trained_bt].sum(), warmed.lm_head.weight)

    with trl_forward(warmed):
        utils.add_fused_lm_head(warmed, 1.0, outputs=("log_probs", "entropy"))
        found = warmed(input_ids=ids_bt, labels=labels_bt, fused_lm_head=True)
        (found_gradient,) = torch.autograd.grad(found.log_probs.sum(), warmed.lm_head.weight)

    assert scored == [int(trained_bt.sum())]
    torch.testing.assert_close(found.log_probs[trained_bt], expected_bt[trained_bt], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy[trained_bt], entropy_bt[trained_bt], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found_gradient, gradient, atol=1e-5, rtol=1e-4)
    assert not found.log_probs[~trained_bt].any()
    assert "forward" not in vars(warmed)

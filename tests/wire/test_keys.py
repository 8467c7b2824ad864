"""Keys: where they come from, and one line that says what to set where there is none."""

import pytest

from sia_runner.config.components import HostedProvider
from sia_runner.wire.grants import ModelsError
from sia_runner.wire.providers import key_of, redact


def hosted(**keys):
    return HostedProvider(
        name="acme", kind="hosted", api="openai", litellm="acme", model="m", base_url="http://localhost/v1", **keys
    )


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("ACME_KEY", raising=False)


def test_a_provider_without_a_key_needs_none():
    assert key_of(hosted()) is None


def test_the_environment_wins_over_the_file(monkeypatch, tmp_path):
    (tmp_path / "key").write_text("from-the-file\nanother line\n")
    both = hosted(key="ACME_KEY", key_file=str(tmp_path / "key"))
    assert key_of(both) == "from-the-file"
    monkeypatch.setenv("ACME_KEY", " from-the-environment\n")
    assert key_of(both) == "from-the-environment"


@pytest.mark.parametrize("empty", [None, "", "  \n"])
def test_a_missing_key_is_one_line_that_says_what_to_set(monkeypatch, empty):
    if empty is not None:
        monkeypatch.setenv("ACME_KEY", empty)
    with pytest.raises(ModelsError) as caught:
        key_of(hosted(key="ACME_KEY"))
    assert str(caught.value) == "provider acme: no key; set ACME_KEY in the environment or provider.key_file"


def test_a_key_that_only_the_driver_has_is_missed_in_the_job_that_is_named(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with pytest.raises(ModelsError, match=r"set ACME_KEY in the environment of job 4711 on .* or provider\.key_file"):
        key_of(hosted(key="ACME_KEY"))


def test_a_key_file_that_cannot_be_read_or_is_empty_is_named(tmp_path):
    with pytest.raises(ModelsError, match="key_file=.*absent"):
        key_of(hosted(key="ACME_KEY", key_file=str(tmp_path / "absent")))
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ModelsError, match="first line of .*empty"):
        key_of(hosted(key_file=str(tmp_path / "empty")))


@pytest.mark.parametrize("wrong", ["two words", "schlüssel", "a\tb", "x" * 9000])
def test_what_cannot_be_a_key_is_refused_without_showing_it(monkeypatch, wrong):
    monkeypatch.setenv("ACME_KEY", wrong)
    with pytest.raises(ModelsError, match="ACME_KEY") as caught:
        key_of(hosted(key="ACME_KEY"))
    assert wrong not in str(caught.value)


def test_a_message_is_shown_without_any_key():
    assert redact("bad key sk-1234 and sk-12", ["sk-12", None, "sk-1234"]) == "bad key [key] and [key]"


@pytest.mark.parametrize(
    "line",
    [
        "OPENAI_API_KEY=sk-1234567890",
        "export OPENAI_API_KEY = sk-1234567890",
        '"sk-1234567890"',
        "'sk-1234567890'",
        "Bearer sk-1234567890",
    ],
)
@pytest.mark.parametrize("where", ["file", "environment"])
def test_a_line_of_an_env_file_is_no_key_and_is_not_shown(monkeypatch, tmp_path, line, where):
    (tmp_path / "key").write_text(line + "\n")
    if where == "environment":
        monkeypatch.setenv("ACME_KEY", line)
    with pytest.raises(ModelsError) as caught:
        key_of(hosted(key="ACME_KEY", key_file=str(tmp_path / "key")))
    assert (str(tmp_path / "key") if where == "file" else "ACME_KEY") in str(caught.value)
    assert "key alone" in str(caught.value) and "1234567890" not in str(caught.value)


def test_a_key_may_end_with_equals_signs(monkeypatch):
    monkeypatch.setenv("ACME_KEY", "c2stMTIzNDU2Nzg5MA==")
    assert key_of(hosted(key="ACME_KEY")) == "c2stMTIzNDU2Nzg5MA=="

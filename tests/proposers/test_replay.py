from pathlib import Path

import pytest

from sia_runner.proposers.protocol import Brief, ProposerContext, ProposerError
from sia_runner.proposers.replay import Replay
from sia_runner.records import Lever
from tests.proposers.synthetic import Bench


def replay(folder: Path, n: int, entry: str = "target_agent.py"):
    context = ProposerContext("any", folder, folder, entry, seed=0)
    return Replay(context, dir=str(folder)).propose(Brief(n, 9, None, (), None, True), Bench())


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_the_harness_folder_of_a_run_directory_is_proposed_and_nothing_beside_it(tmp_path):
    write(tmp_path / "gen_1", {"harness/target_agent.py": "one", "harness/tools/a.py": "two", "scores.json": "{}"})
    proposal = replay(tmp_path, 1)
    assert proposal.lever is Lever.HARNESS
    assert proposal.files == {"target_agent.py": "one", "tools/a.py": "two"}


def test_without_a_harness_folder_the_files_of_the_generation_are_the_harness(tmp_path):
    write(tmp_path / "gen_1", {"target_agent.py": "old"})
    write(tmp_path / "gen_2", {"target_agent.py": "new\r\n", "prompt.txt": "hello"})
    assert replay(tmp_path, 2).files == {"target_agent.py": "new\r\n", "prompt.txt": "hello"}


def test_a_single_program_of_another_name_becomes_the_entry(tmp_path):
    write(tmp_path / "gen_1", {"agent.py": "x"})
    assert replay(tmp_path, 1).files == {"target_agent.py": "x"}


def test_of_two_programs_none_is_guessed_to_be_the_entry(tmp_path):
    write(tmp_path / "gen_1", {"a.py": "x", "b.py": "y"})
    assert replay(tmp_path, 1).files == {"a.py": "x", "b.py": "y"}


def test_only_bounded_text_files_are_read(tmp_path):
    write(tmp_path / "gen_1", {"target_agent.py": "x", "model.bin": b"\xff\x00", "nul.txt": "a\0b", ".env": "KEY=1"})
    write(tmp_path / "gen_1", {"big.txt": "x" * (1024 * 1024 + 1), "__pycache__/a.txt": "x"})
    (tmp_path / "gen_1" / "link.txt").symlink_to("/etc/passwd")
    assert replay(tmp_path, 1).files == {"target_agent.py": "x"}


def test_a_missing_generation_stops_with_the_folder_named(tmp_path):
    write(tmp_path / "gen_1", {"target_agent.py": "x"})
    proposal = replay(tmp_path, 2)
    assert proposal.lever is Lever.STOP
    assert proposal.rationale == f"no more harnesses in {tmp_path}"


def test_a_folder_without_generations_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ProposerError, match="gen_1.* gen_1, gen_2"):
        replay(tmp_path, 1)


def test_a_folder_with_one_program_and_an_exported_harness_are_one_generation(tmp_path):
    write(tmp_path / "mine", {"agent.py": "x"})
    exported = {"target_agent.py": "y", "README.md": "r", "provenance.json": "{}", "example/train.csv": "id\n"}
    write(tmp_path / "best", exported)
    assert replay(tmp_path / "mine", 1).files == {"target_agent.py": "x"}
    assert replay(tmp_path / "best", 1).files == {"target_agent.py": "y"}
    assert replay(tmp_path / "best", 2).lever is Lever.STOP

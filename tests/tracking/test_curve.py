"""A curve is read while it grows, whatever a kill or a resume made of it."""

from sia_runner.store.run_directory import GenerationDir
from sia_runner.tracking.rows import CurveReader


def test_steps_come_once_and_in_order_also_where_a_resume_did_some_again(tmp_path):
    file = tmp_path / "curve.jsonl"
    curve = CurveReader(GenerationDir(tmp_path, 1))
    assert list(curve.news()) == []
    file.write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "reward": 0.6}\n{"st')
    assert [item["reward"] for item in curve.news()] == [0.5, 0.6]
    with file.open("a") as more:  # the line was cut by the kill; step 2 is done again
        more.write('{"step": 2, "reward": 0.9}\n{"step": 2, "reward": 0.9}\n{"step": 3, "reward": 0.7, "kl": null}\n')
    assert list(curve.news()) == [{"step": 3, "reward": 0.7}]
    assert list(curve.news()) == []


def test_what_is_no_step_is_passed_over(tmp_path):
    file = tmp_path / "curve.jsonl"
    file.write_bytes(b"[1]\n\xff\n{}\n" + b'{"step": "x"}\n' + b"9" * 5_000_000 + b'\n{"step": 4, "kl": Infinity}\n')
    assert list(CurveReader(GenerationDir(tmp_path, 1)).news()) == [{"step": 4}]

"""A harness's requirements.txt: an isolated, cached environment, or one line that says why not."""

import base64
import hashlib
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.sandbox.interpreter import environment_python, plain_requirements
from sia_runner.sandbox.protocol import SandboxError
from tests.sandbox.conftest import Box


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only source of packages: a folder with the wheel `answer`, whose .pth file wants to run at start-up."""
    pytest.importorskip("uv", reason="NOT TESTED: uv is not installed")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    ran = tmp_path / "pth-ran"
    files = {
        "answer.py": "VALUE = 42\n",
        "answer_start.py": f"try:\n    open({str(ran)!r}, 'w').close()\nexcept OSError:\n    pass\n",
        "answer.pth": "import answer_start\n",
        "answer-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: answer\nVersion: 1.0\n",
        "answer-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        name: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        for name, text in files.items()
    }
    record = "".join(f"{name},sha256={digest},{len(files[name])}\n" for name, digest in digests.items())
    with zipfile.ZipFile(wheels / "answer-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in {**files, "answer-1.0.dist-info/RECORD": record + "answer-1.0.dist-info/RECORD,,\n"}.items():
            wheel.writestr(name, text)
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))  # what the user's cache holds must not count
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    monkeypatch.setenv("SIA_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_harness_runs_with_what_it_asked_for_and_nothing_else(own_box: Box, index: Path) -> None:
    if own_box.name == "docker":
        pytest.skip("a container has the Python of its image")
    python = environment_python("answer>=1  # the answer\n", allowed=True)
    job = own_box.job("""
        import answer
        try:
            import hydra
        except ImportError:
            print(answer.VALUE, 'alone')
        try:
            open(answer.__file__, 'w')
        except OSError:
            print('read-only')
    """)
    ran = own_box.run_job(replace(job, python=python))
    assert ran.log.split() == ["42", "alone", "read-only"]


def test_installing_runs_no_code_of_the_package_outside_the_sandbox(index: Path) -> None:
    environment_python("answer", allowed=True)
    assert not (index / "pth-ran").exists()


def test_the_same_request_is_built_once_even_by_two_runs_at_the_same_time(index: Path) -> None:
    pythons: list[Path] = []
    threads = [
        threading.Thread(target=lambda: pythons.append(environment_python("answer", allowed=True))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pythons)) == 1 and len(pythons) == 3
    assert len([path for path in (index / "cache" / "envs").iterdir() if path.is_dir()]) == 1


def test_a_second_run_needs_no_package_index(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = environment_python("answer", allowed=True)
    monkeypatch.delenv("UV_FIND_LINKS")
    assert environment_python("answer\n\n# comment", allowed=True) == first


def test_what_cannot_be_found_is_one_line(index: Path) -> None:
    with pytest.raises(SandboxError, match="sia-test-no-such-thing") as raised:
        environment_python("sia-test-no-such-thing==3", allowed=True)
    assert "\n" not in str(raised.value)
    assert not list((index / "cache" / "envs").glob("building-*"))


def test_a_source_distribution_is_never_built(index: Path) -> None:
    import tarfile

    source = index / "sia-test-hostile-1.0"
    source.mkdir()
    (source / "setup.py").write_text(f"open({str(index / 'built')!r}, 'w').close()\n")
    with tarfile.open(index / "wheels" / "sia_test_hostile-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, "sia_test_hostile-1.0")
    with pytest.raises(SandboxError):
        environment_python("sia-test-hostile", allowed=True)
    assert not (index / "built").exists()


def test_installs_are_refused_unless_the_config_allows_them() -> None:
    with pytest.raises(SandboxError, match=r"sandbox\.allow_installs"):
        environment_python("numpy", allowed=False)


def test_a_missing_uv_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_runner.sandbox.interpreter.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match=r"sia-runner\[installs\]"):
        environment_python("numpy", allowed=True)


@pytest.mark.parametrize(
    "line",
    ["-r other.txt", "-e .", "--index-url https://evil.example/simple", "--find-links /tmp", "./package", "/tmp/x.whl",
     "https://evil.example/x.whl", "name @ https://evil.example/x.whl", "name @ file:///tmp/x", "git+https://evil.example/x",
     "numpy --hash=sha256:00", "numpy; os_name == '", "a b", "${HOME}", "numpy \\", "x" * 600],
)  # fmt: skip
def test_everything_but_a_plain_requirement_is_refused_with_its_line_number(line: str) -> None:
    with pytest.raises(SandboxError, match="requirements.txt line 2"):
        plain_requirements(f"numpy\n{line}\n")


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_no_text_becomes_an_option_or_a_path(text: str) -> None:
    try:
        lines = plain_requirements(text)
    except SandboxError:
        return
    assert all(line[0].isalnum() and "/" not in line.split(";")[0] for line in lines)
    assert plain_requirements("\n".join(lines)) == lines

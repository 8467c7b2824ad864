"""What a verifier imports is asked for before anything starts."""

import sys

import pytest

from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.table import check_modules


def test_modules_that_are_there_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "explosive.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    check_modules("example", ["explosive"])


def test_a_missing_module_names_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setattr("sys.path", [])
    monkeypatch.delitem(sys.modules, "chess", raising=False)
    with pytest.raises(TaskError) as told:
        check_modules("longcot_chess", ["chess"])
    assert str(told.value) == (
        "task longcot_chess: its verifier needs the module chess; pip install 'sia-runner[chess]'"
    )


@pytest.mark.parametrize("module", ["no_such_module", "no_such_package.module", "json.no.such", ""])
def test_a_name_that_is_no_module_is_missing(module):
    with pytest.raises(TaskError, match="module"):
        check_modules("example", [module])

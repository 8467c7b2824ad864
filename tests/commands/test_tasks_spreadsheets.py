"""A spreadsheet, also as LibreOffice saves it in German and US locale, becomes a running task by `tasks new` alone."""

import datetime
import random
import shutil
import subprocess

import pytest

from sia_runner.__main__ import main
from sia_runner.tasks.user_table import read_user_table

_LOCALE = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry">
<item oor:path="/org.openoffice.Setup/L10N"><prop oor:name="ooSetupSystemLocale" oor:op="fuse"><value>{}</value></prop>
</item></oor:items>
"""
_FILTERS = {"de-DE": "59,34,1", "en-US": "44,34,76"}  # separator, quote, character set: ; in cp1252, or , in UTF-8
_COLUMNS = ["what", "day", "postcode", "weight", "price", "desk"]


def rows():
    drawn = random.Random(1)
    for n in range(300):
        desk, size = drawn.choice(["Möbel", "Büro", "Küche"]), drawn.randint(1, 4000)
        day = datetime.date(2024, 1, 1) + datetime.timedelta(n)
        yield [
            f"Tisch, {desk if n % 3 else 'größer'} {n}",
            day,
            drawn.randint(1000, 99000),
            size / 4,
            size * 1.25,
            desk,
        ]


@pytest.fixture
def workbook(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="NOT TESTED: needs the extra `tables`")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(_COLUMNS)
    for n, row in enumerate(rows(), 2):
        sheet.append(row)
        for column, form in (("B", "yyyy-mm-dd"), ("C", "00000"), ("D", "#,##0.00"), ("E", '#,##0.00\\ "€"')):
            sheet[f"{column}{n}"].number_format = form
    book.save(tmp_path / "orders.xlsx")
    return tmp_path / "orders.xlsx"


def exported(workbook, locale):
    """The workbook as LibreOffice saves it as CSV in that locale."""
    if not shutil.which("soffice"):
        pytest.skip("NOT TESTED: needs LibreOffice (apt-get install libreoffice-calc-nogui)")
    home = workbook.parent / locale
    (home / "user").mkdir(parents=True)
    (home / "user" / "registrymodifications.xcu").write_text(_LOCALE.format(locale))
    form = f"csv:Text - txt - csv (StarCalc):{_FILTERS[locale]}"
    command = ["soffice", f"-env:UserInstallation={home.as_uri()}", "--headless", "--convert-to", form]
    subprocess.run([*command, "--outdir", str(home), str(workbook)], check=True, capture_output=True, timeout=200)
    return home / "orders.csv"


def values(path):
    table = read_user_table(path)
    kept = [_COLUMNS.index(name) for name in ("weight", "price")]
    return table.columns, [
        [float(cell) if index in kept else cell for index, cell in enumerate(row)] for row in table.rows
    ]


def test_a_workbook_is_read_as_it_shows_its_cells(workbook):
    expected = [[what, str(day), f"{code:05}", *rest] for what, day, code, *rest in rows()]
    assert values(workbook) == (_COLUMNS, expected)


@pytest.mark.slow
def test_a_workbook_becomes_a_running_task(workbook, tmp_path, monkeypatch):
    runs(workbook, tmp_path, monkeypatch, "desk", "choice")


@pytest.mark.slow
@pytest.mark.parametrize("locale", _FILTERS)
def test_what_libreoffice_saves_becomes_a_running_task(workbook, tmp_path, monkeypatch, locale):
    table = exported(workbook, locale)
    columns, read = values(table)
    assert columns == _COLUMNS
    for cells, (what, day, code, weight, price, desk) in zip(read, rows(), strict=True):
        assert [*cells[:3], cells[5]] == [what, str(day), f"{code:05}", desk]
        assert cells[3:5] == pytest.approx([weight, price], abs=0.0051)  # two decimals are shown
    runs(table, tmp_path, monkeypatch, "desk", "choice")
    runs(table, tmp_path, monkeypatch, "price", "numeric")


def runs(table, folder, monkeypatch, answer, verifier):
    monkeypatch.chdir(folder)
    assert main(["tasks", "new", answer, "--csv", str(table), "--answer", answer]) == 0
    assert f"verifier: {verifier}" in (folder / answer / "conf" / "task" / f"{answer}.yaml").read_text()
    task = ["--config-dir", f"{answer}/conf", f"task={answer}"]
    assert main([*task, "max_gen=1", f"hydra.run.dir=runs/{answer}"]) == 0

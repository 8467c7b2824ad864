"""Tables as people have them are read as their owner sees them, or refused in one line that names the row."""

import csv
import io
import sys

import pytest

from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.user_table import read_user_table

PRICES = [("oak table", "1299.5"), ("chair", "49.9"), ("long bench", "250.25"), ("shelf", "8.0")]


def table_of(folder, data, name="t.csv"):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_user_table(path)


def noted(table, words):
    return any(words in note for note in table.notes)


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c", "\r\n", "\r", "\n", '"', "x" * 140_000])
def test_a_cell_is_what_the_csv_module_reads(tmp_path, mark):
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([("text", "desk"), (f"a{mark}b", "x"), ("c", "y")])
    assert table_of(tmp_path, stream.getvalue()).rows == [[f"a{mark}b", "x"], ["c", "y"]]


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_a_cell_without_quotes_may_hold_a_line_separator_of_unicode(tmp_path, mark):
    assert table_of(tmp_path, f"text,desk\na{mark}b,x\n").rows == [[f"a{mark}b", "x"]]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_separator_and_encoding_are_understood_and_told(tmp_path, separator, codec):
    rows = [("Größe, in words; so to say" if separator not in ",;" else "Größe", "x"), ("naïve", "y")] * 3
    text = "".join(separator.join(row) + "\r\n" for row in [("text", "desk"), *rows])
    table = table_of(tmp_path, text.encode(codec))
    assert (table.columns, table.rows) == (["text", "desk"], [list(row) for row in rows])
    told = {"utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "utf-16": "UTF-16", "cp1252": "Windows-1252"}
    assert noted(table, told.get(codec, "UTF-8"))
    assert noted(table, {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}[separator])


def test_commas_in_texts_do_not_hide_the_semicolons(tmp_path):
    rows = [("one, two", "x"), ("three", "y"), ("four, five, six", "z")]
    text = "what, exactly;desk\n" + "".join(";".join(row) + "\n" for row in rows)
    assert table_of(tmp_path, text).columns == ["what, exactly", "desk"]


def test_the_separator_that_excel_declares_is_used_and_rows_keep_their_numbers(tmp_path):
    table = table_of(tmp_path, "sep=;\na;b\n1,5;x\n\n2,5;y\n")
    assert (table.columns, table.rows, table.numbers) == (["a", "b"], [["1.5", "x"], ["2.5", "y"]], [3, 5])


@pytest.mark.parametrize(
    ("cells", "plain"),
    [
        (["1.299,50", "49,9", "-3"], ["1299.50", "49.9", "-3"]),
        (["1.299,50 €", "49,90 €", "8,00 €"], ["1299.50", "49.90", "8.00"]),
        (["1\u202f299,50", "49,9"], ["1299.50", "49.9"]),
        (["$1,299.50", "$49.90"], ["1299.50", "49.90"]),
        (["1,299.50", "49.9", "1e3"], ["1299.50", "49.9", "1e3"]),
        (["1,299", "2,500"], ["1.299", "2.500"]),  # with semicolons a comma is a decimal comma
        (["12 %", "7,5 %", "n/a"], ["12", "7.5", "n/a"]),
        (["01067", "1,5"], ["01067", "1,5"]),  # a code, so no column of numbers
        (["12 €", "13", "14"], ["12 €", "13", "14"]),  # two units
        (["1.2.3", "4,5"], ["1.2.3", "4,5"]),
        (["1.299", "2.500"], ["1299", "2500"]),
        (["1.299", "0.125"], ["1.299", "0.125"]),
    ],
)
def test_columns_of_numbers_become_plain_numbers_and_other_cells_stay(tmp_path, cells, plain):
    table = table_of(tmp_path, "text;price\n" + "".join(f"a{n};{cell}\n" for n, cell in enumerate(cells)))
    assert [row[1] for row in table.rows] == plain
    assert noted(table, "numbers read") == (cells != plain)


def test_another_column_tells_whether_a_point_groups_thousands(tmp_path):
    assert table_of(tmp_path, "a;b\n1.299;0,5\n2.500;1,25\n").rows == [["1299", "0.5"], ["2500", "1.25"]]


def test_with_commas_between_cells_a_comma_groups_thousands_and_a_list_of_options_stays(tmp_path):
    table = table_of(tmp_path, 'price,options\n"1,299","1,2"\n"2,500","3"\n')
    assert table.rows == [["1299", "1,2"], ["2500", "3"]]


def test_rows_and_columns_that_hold_nothing_are_left_out_and_counted(tmp_path):
    table = table_of(tmp_path, "text,desk,,\na,x,,\nb,y,,\n,,,\n,,,\n , ,,\n")
    assert (table.columns, table.rows) == (["text", "desk"], [["a", "x"], ["b", "y"]])
    assert noted(table, "rows without any content left out: 3") and noted(
        table, "columns without a name, blank or a count of the rows, left out: 2"
    )


def test_the_index_that_pandas_writes_is_left_out_and_a_nameless_column_of_values_gets_a_name(tmp_path):
    assert table_of(tmp_path, ",text,desk\n0,a,x\n1,b,y\n").columns == ["text", "desk"]
    assert table_of(tmp_path, ",text,desk\n7,a,x\n9,b,y\n").columns == ["column_1", "text", "desk"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"desk,text,desk\nx,a,x\n", "columns 1 and 3 are both called 'desk'"),
        (b"text,desk\na,x\nb\n", "row 3 has 1 cells, the header has 2"),
        (b"text,desk\n\na,x,more\n", "row 3 has 3 cells"),
        (b"text,desk\n", "no header with rows below it"),
        (b"", "no header with rows below it"),
        (b"PK\x03\x04 is no workbook", "save the table as .xlsx or CSV"),
        (b"\xd0\xcf\x11\xe0 old Excel", "save the table as .xlsx or CSV"),
        (b"text,desk\n\x81\xff,x\n", "its encoding is unknown; save it as CSV in UTF-8"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_remedy(tmp_path, data, words):
    with pytest.raises(TaskError) as refusal:
        table_of(tmp_path, data)
    assert words in str(refusal.value) and "t.csv" in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_workbook_is_read_with_padded_codes_dates_and_truths_as_it_shows_them(tmp_path):
    import datetime

    openpyxl = pytest.importorskip("openpyxl", reason="NOT TESTED: needs the extra `tables`")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "orders"
    sheet.append(["code", "day", "paid", "price", "text ", None])
    sheet.append([1067, datetime.datetime(2024, 3, 1), True, 12.5, "a\nb", None])
    sheet.append([10115, datetime.datetime(2024, 3, 2), False, 3.0, None, None])
    sheet["B2"].number_format = sheet["B3"].number_format = "yyyy-mm-dd"
    sheet["A2"].number_format = sheet["A3"].number_format = "00000"
    book.create_sheet("other")
    book.save(tmp_path / "t.xlsx")
    table = read_user_table(tmp_path / "t.xlsx")
    assert table.columns == ["code", "day", "paid", "price", "text"]
    assert table.rows == [["01067", "2024-03-01", "TRUE", "12.5", "a\nb"], ["10115", "2024-03-02", "FALSE", "3", ""]]
    assert noted(table, "sheet orders of 2")


def test_without_openpyxl_a_workbook_is_refused_with_what_to_install(tmp_path, monkeypatch):
    openpyxl = pytest.importorskip("openpyxl", reason="NOT TESTED: needs the extra `tables`")
    openpyxl.Workbook().save(tmp_path / "t.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(TaskError, match=r"sia-runner\[tables\]"):
        read_user_table(tmp_path / "t.xlsx")

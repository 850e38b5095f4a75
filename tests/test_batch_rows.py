"""Rows as input: formats, ids, which faults refuse the file and which become an error of one row."""

import io
import json
import sys
import types

import pytest

from bark_jax.batch.forms import choose_format
from bark_jax.batch.ids import Shard, check_id, derive_seed
from bark_jax.batch.rows import MAX_LINE_BYTES, Fault, RowsError, TextRow, check_rows, read_rows
from bark_jax.batch.sources import local_copy
from bark_jax.errors import BarkError, InputError, UnsupportedError


def read(tmp_path, data, form="jsonl"):
    path = tmp_path / "rows"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(read_rows(path, form))


def check(tmp_path, data, form="jsonl", **options):
    path = tmp_path / "rows"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return check_rows(path, form, source="rows", **options)


def test_a_json_line_has_text_voice_seed_settings_and_metadata(tmp_path):
    line = {"id": 7, "text": "Hi.", "voice": "v", "seed": 3, "top_k": 5, "settings": {"temperature": 0.6}, "book": "b"}
    (row,) = read(tmp_path, json.dumps(line))
    assert row == TextRow(1, "7", "Hi.", "v", 3, {"temperature": 0.6, "top_k": 5}, {"book": "b"})


def test_csv_has_the_same_rows(tmp_path):
    names = "\ufeffid,text,voice,seed,temperature,allow_early_stop,book\n"
    data = names + 'a,"Two\nlines, quoted",,3,0.5,False,b\n\nb,Hi.\n'
    first, second = read(tmp_path, data, "csv")
    assert first == TextRow(
        2, "a", "Two\nlines, quoted", None, 3, {"temperature": 0.5, "allow_early_stop": False}, {"book": "b"}
    )
    assert (second.line, second.id, second.text, second.seed) == (5, "b", "Hi.", derive_seed("b"))


def test_plain_lines_are_texts_named_by_their_number(tmp_path):
    rows = read(tmp_path, "Hi. \r\n\n  Good day.\n", "lines")
    assert [(row.id, row.text) for row in rows] == [("line-000000001", "Hi."), ("line-000000003", "Good day.")]


def test_the_seed_of_a_row_that_gives_none_is_that_of_its_id():
    assert derive_seed("a1") == 0xF55FF16F66F43360  # printf a1 | sha256sum
    assert derive_seed("a1") != derive_seed("a2")


@pytest.mark.parametrize("name", ["a", "a-1_b.c", "Größe", "語", "with space", "x" * 200, 12])
def test_ids_that_are_safe(name):
    assert check_id(name) == str(name)


BAD_IDS = [
    "",
    ".",
    "..",
    ".hidden",
    "a/b",
    "../a",
    "a\\b",
    "a:b",
    "a\0",
    "a\n",
    " a",
    "a ",
    "a.",
    "x" * 201,
    "NUL",
    "com1.x",
]


@pytest.mark.parametrize("name", [*BAD_IDS, "x" * 201, "é" * 101, None, True, 1.5, ["a"], "\ud800"])
def test_ids_that_are_not(name):
    with pytest.raises(InputError, match="id"):
        check_id(name)


def test_all_faults_of_ids_are_reported_with_their_lines(tmp_path):
    lines = [{"id": "a", "text": "1"}, {"text": "2"}, {"id": "b/c", "text": "3"}, {"id": "a", "text": "4"}]
    with pytest.raises(RowsError) as caught:
        check(tmp_path, "\n".join(map(json.dumps, lines)))
    assert [fault.line for fault in caught.value.faults] == [2, 3, 4]
    assert "3 faults" in str(caught.value) and "that of line 1 too" in str(caught.value)


def test_the_list_of_faults_has_an_end(tmp_path):
    with pytest.raises(RowsError, match=r"1,000 faults[\s\S]*and 900 more") as caught:
        check(tmp_path, '{"id": "/", "text": "x"}\n' * 1000)
    assert len(str(caught.value)) < 20_000


def test_ids_that_are_one_file_are_refused(tmp_path):
    data = '{"id": "caf\\u00e9", "text": "x"}\n{"id": "cafe\\u0301", "text": "x"}\n'
    with pytest.raises(RowsError):
        check(tmp_path, data)
    cases = '{"id": "A", "text": "x"}\n{"id": "a", "text": "x"}\n'
    assert check(tmp_path, cases).total == 2
    with pytest.raises(RowsError):
        check(tmp_path, cases, is_case_sensitive=False)


BROKEN = [
    b'{"id": "a"}',
    b'{"id": "a", "text": 5}',
    b'{"id": "a", "text": null}',
    b'{"id": "a", "text": "x", "seed": -1}',
    b'{"id": "a", "text": "x", "seed": 1.5}',
    b'{"id": "a", "text": "x", "seed": true}',
    b'{"id": "a", "text": "x", "seed": 18446744073709551616}',
    b'{"id": "a", "text": "x", "voice": 3}',
    b'{"id": "a", "text": "x", "settings": [1]}',
    b'{"id": "a", "text": "x", "temprature": 0.5}',
    b"not json",
    b'{"id": "a", "text": "x", "text": "y"}',
    b'{"id": "a", "text": "x", "top_p": NaN}',
    b'{"id": "a", "text": "x", "weight": 1e999}',
    b"[1]",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"id": "a", "text": "x", "seed": ' + b"9" * 5000 + b"}",
    b'"' + b"x" * (MAX_LINE_BYTES + 10) + b'"',
]


@pytest.mark.parametrize("line", BROKEN, ids=range(len(BROKEN)))
def test_a_row_that_is_wrong_is_an_error_of_its_own(tmp_path, line):
    first, row, last = read(tmp_path, b'{"id": "0", "text": "x"}\n' + line + b'\n{"id": "1", "text": "y"}')
    assert first.error is None and last.error is None
    assert isinstance(row, TextRow) and row.line == 2 and row.error and len(row.error) < 600
    assert check(tmp_path, b'{"id": "0", "text": "x"}\n' + line).total == 2


def test_a_csv_line_that_is_wrong_is_an_error_of_its_own(tmp_path):
    rows = read(tmp_path, b"id,text,seed\na,x,1\nb,y,z\nc,1,2,3,4\nd,\xff,4\n", "csv")
    assert [row.error is not None for row in rows] == [False, True, True, False]
    assert "\udcff" in rows[3].text  # half a character: refused when the row is generated


@pytest.mark.parametrize("data", ["", "a,b\n1,2\n", "text,text\n1,2\n"])
def test_csv_without_names_of_columns_is_refused(tmp_path, data):
    with pytest.raises(InputError, match="columns"):
        check(tmp_path, data, "csv")


@pytest.mark.parametrize("data", ["", "\n\n"])
def test_no_rows_are_refused(tmp_path, data):
    with pytest.raises(InputError, match="no rows"):
        check(tmp_path, data)


def test_a_file_of_another_format_is_refused(tmp_path):
    with pytest.raises(InputError, match="none of the 2 rows of rows can be read as jsonl"):
        check(tmp_path, "Good morning.\nGood night.\n")


def test_formats_are_recognised_by_ending_or_first_character(tmp_path):
    path = tmp_path / "rows"
    path.write_text('\n{"id": 1}')
    assert choose_format("-", path) == "jsonl"
    path.write_text("Hi.")
    assert [choose_format(f"s3://b/rows.{end}", path) for end in ("jsonl", "csv", "txt")] == ["jsonl", "csv", "lines"]
    assert choose_format("-", path) == "lines" and choose_format("-", path, "csv") == "csv"
    with pytest.raises(InputError, match="xml"):
        choose_format("-", path, "xml")


def test_stdin_is_copied_and_the_copy_deleted(monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"Hi.\n")))
    with local_copy("-") as path:
        assert path.read_bytes() == b"Hi.\n"
    assert not path.exists()


def test_an_address_is_read_by_fsspec():
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/batch/rows.txt", b"Hi.\n")
    with local_copy("memory://batch/rows.txt") as path:
        assert path.read_bytes() == b"Hi.\n"
    with pytest.raises(InputError, match="memory://batch/missing"), local_copy("memory://batch/missing"):
        pass
    with pytest.raises(BarkError, match="nothing://there"), local_copy("nothing://there"):
        pass


def test_an_address_without_fsspec_tells_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UnsupportedError, match="pip install fsspec"), local_copy("s3://bucket/rows.csv"):
        pass


@pytest.mark.parametrize("source", ["missing.jsonl", "."])
def test_a_source_that_is_no_file_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError), local_copy(source):
        pass


def test_shards_part_the_rows_by_their_ids():
    names = [f"row-{number}" for number in range(3000)]
    parts = [{name for name in names if Shard(index, 3).has(name)} for index in range(3)]
    assert set.union(*parts) == set(names) and sum(map(len, parts)) == 3000
    assert all(900 < len(part) < 1100 for part in parts)


@pytest.mark.parametrize("text", ["3/3", "1", "a/b", "-1/3", "0/0", "1/2/3"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="--shard"):
        Shard.parse(text)


def test_faults_and_rows_come_in_the_order_of_the_lines(tmp_path):
    rows = read(tmp_path, '{"id": "a", "text": "x"}\n{"text": "y"}\n')
    assert isinstance(rows[0], TextRow) and rows[1] == Fault(
        2, "id is missing; plain lines (--input-format lines) need none"
    )

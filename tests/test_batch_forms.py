"""File formats of rows: each is recognised, or refused before the start; structure is never spoken as text."""

import gzip
import io
import json
import pickle
import random
import zipfile

import numpy as np
import pytest
from batch_stub import StubSpeaker, run_stub
from click.testing import CliRunner

from bark_jax._system.strict_json import MAX_DEPTH, read_strict
from bark_jax.batch import json_array
from bark_jax.batch.forms import choose_format
from bark_jax.batch.json_array import read_elements
from bark_jax.batch.rows import MAX_LINE_BYTES, RowsError, check_rows, read_rows
from bark_jax.cli import main
from bark_jax.errors import InputError

ROWS = [{"id": "a", "text": "Good morning."}, {"id": "b", "text": 'She said: "[Hi], {you}"\\.', "temperature": 0.5}]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = [("id", "text", "voice"), ("a", "Good morning.", ""), ("b", "Hi there.", "anna")]


def table(delimiter, rows=TABLE):
    return "".join(delimiter.join(row) + "\n" for row in rows)


def write(tmp_path, data, name="rows"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(path, source=None, given=None):
    form = choose_format(source or str(path), path, given)
    check_rows(path, form, source=str(path))
    return form, list(read_rows(path, form))


ARRAYS = [json.dumps(ROWS), json.dumps(ROWS, indent=2), "\ufeff \n" + json.dumps(ROWS, indent="\t") + "\n\n"]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows", "rows.data"])
@pytest.mark.parametrize("data", ARRAYS, ids=["one line", "pretty", "marked"])
def test_an_array_is_read_and_its_rows_are_numbered_by_their_position(tmp_path, data, name):
    form, rows = read(write(tmp_path, data, name))
    assert form == "json" and [(row.line, row.id, row.text) for row in rows] == [
        (1, "a", "Good morning."),
        (2, "b", 'She said: "[Hi], {you}"\\.'),
    ]


def test_arrays_of_any_values_in_blocks_of_any_size(tmp_path, monkeypatch):
    rng = random.Random(0)

    def value(depth=0):
        kind = rng.randrange(6 if depth < 4 else 3)
        if kind == 3:
            return [value(depth + 1) for _ in range(rng.randrange(3))]
        if kind == 4:
            return {f'{number}"': value(depth + 1) for number in range(rng.randrange(3))}
        return [rng.random(), None, "".join(rng.choice('a"\\[]{},é\n') for _ in range(8)), 0, 0, True][kind]

    for _ in range(300):
        monkeypatch.setattr(json_array, "_BLOCK", rng.choice([3, 4, 7, 64]))
        values = [value() for _ in range(rng.randrange(5))]
        path = write(tmp_path, json.dumps(values, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5))
        assert [json.loads(element) for _, element in read_elements(path, 2**20)] == values


def test_an_element_that_is_too_long_or_wrong_is_an_error_of_its_own(tmp_path):
    long = json.dumps({"id": "b", "text": "x" * MAX_LINE_BYTES})
    path = write(
        tmp_path, f'[{{"id": "a", "text": "x"}}, {long}, 7, {{"id": "c" "text"}}, {{"id": "d", "text": "y"}},]'
    )
    _, rows = read(path, "rows.json")
    assert [row.error is None for row in rows] == [True, False, False, False, True, False]
    assert "row is longer" in rows[1].error and "the row is 7" in rows[2].error


@pytest.mark.parametrize("end", ["", "]]", "] []", '] {"id": 1}', ", {"])
def test_an_array_that_is_cut_off_or_goes_on_is_refused(tmp_path, end):
    path = write(tmp_path, '[{"id": "a", "text": "x"}' + end)
    with pytest.raises(InputError, match="array"):
        read(path, "rows.json")


def test_faults_of_an_array_name_the_row(tmp_path):
    path = write(tmp_path, json.dumps([*ROWS, {"text": "x"}, ROWS[0]]))
    with pytest.raises(RowsError, match=r"row 3: id is missing[\s\S]*row 4: id 'a' is that of row 1 too"):
        read(path)


@pytest.mark.parametrize("delimiter", ["\t", ";", "|", ","])
@pytest.mark.parametrize("name", ["rows.tsv", "rows.csv", "rows"])
def test_tables_are_read_whatever_parts_their_columns(tmp_path, delimiter, name):
    form, rows = read(write(tmp_path, table(delimiter), name))
    assert form == "csv" and [(row.id, row.text, row.voice) for row in rows][1] == ("b", "Hi there.", "anna")


def test_json_lines_are_recognised_by_the_majority_of_the_lines(tmp_path):
    for head in ("# rows of June\n", "id,text\n", "\n\n", "{broken\n"):
        form, rows = read(write(tmp_path, head + JSONL))
        assert form == "jsonl" and [row.id for row in rows][-2:] == ["a", "b"]
    many = "".join(json.dumps({"id": str(number), "text": "Hello, " * 20}) + "\n" for number in range(1000))
    assert read(write(tmp_path, many))[0] == "jsonl"  # longer than the sample that is inspected
    assert read(write(tmp_path, json.dumps({"id": "a", "text": "Hello. " * 30_000})))[0] == "jsonl"


PLAIN = [
    "[laughs] Hello there.\nGood day.\n",
    "[1] The first chapter.\n[2] The second.\n",
    "[laughs]\nHello.\n",
    '["Hi," she said] and left.\n',
    "{sighs} Well.\n",
    "<laugh> Hello.\n",
    "- Hello there.\n- Good day.\n",
    "- Anna: Hello there.\n",
    "Text, more text.\nAnd one, two, three.\n",
    "id\n",
    "Hello; goodbye.\n",
    "# A title\n\nSome words.\n",
    "日本語です。\nこんにちは。\n",
    "One line with a\0 in it.\nGood.\n",
    b"One line is \xff broken.\nGood.\nGood.\n",
    "\x1b[1mBold\x1b[0m\nPlain\n",
]


@pytest.mark.parametrize("data", PLAIN, ids=range(len(PLAIN)))
def test_plain_text_stays_lines(tmp_path, data):
    path = write(tmp_path, data)
    assert choose_format("-", path) == choose_format("rows.txt", path) == "lines"


def archive():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("xl/worksheets/sheet1.xml", "<x/>")
    return stream.getvalue()


def array_file():
    stream = io.BytesIO()
    np.save(stream, np.arange(9))
    return stream.getvalue()


NO_TEXT = {
    "zip": archive(),
    "gzip": gzip.compress(JSONL.encode()),
    "bzip2": b"BZh91AY&SY",
    "xz": b"\xfd7zXZ\x00\x00\x04",
    "zstd": b"\x28\xb5\x2f\xfd\x24",
    "Parquet": b"PAR1\x15\x04",
    "SQLite": b"SQLite format 3\x00",
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    "old Office": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "UTF-16": JSONL.encode("utf-16"),
    "UTF-16LE": JSONL.encode("utf-16-le"),
    "UTF-16BE": "Hello.\nGood day.\n".encode("utf-16-be"),
    "UTF-16 of Chinese": "你好，早上好。\n再见，晚安。\n".encode("utf-16"),
    "UTF-16LE of Chinese": "你好，早上好。\n再见，晚安。\n你好\n".encode("utf-16-le"),
    "UTF-32": "Hello.".encode("utf-32"),
    "Latin-1": "Größe.\nSchön.\nGrün.\n".encode("latin-1"),
    "Shift-JIS": "日本語です。\nこんにちは。\n今日は。\n".encode("shift-jis"),
    "pickle": pickle.dumps(ROWS),
    "numpy": array_file(),
    "audio": b"RIFF\x24\x08\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00",
    "zeros": bytes(1000),
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
}


@pytest.mark.parametrize("given", [None, "lines", "jsonl"])
@pytest.mark.parametrize("what", NO_TEXT)
def test_what_is_no_text_is_refused_at_the_start_whatever_is_given(tmp_path, what, given):
    path = write(tmp_path, NO_TEXT[what])
    with pytest.raises(InputError, match="expected text in UTF-8") as caught:
        choose_format("rows.jsonl", path, given)
    assert "'rows.jsonl' is " in str(caught.value) and len(str(caught.value)) < 300


OTHER_TEXT = {
    "object with a list": json.dumps({"rows": ROWS}),
    "object with a list, pretty": json.dumps({"version": 1, "data": ROWS}, indent=2),
    "object with a long list": json.dumps({"rows": ROWS * 2000}, indent=2),
    "object of objects": json.dumps({"a1": ROWS[0], "a2": ROWS[1]}),
    "rows, pretty": "".join(json.dumps(row, indent=2) + "\n" for row in ROWS),
    "arrays a line": '["a", "Good morning."]\n["b", "Hi."]\n',
    "YAML": "- id: a\n  text: Good morning.\n- id: b\n  text: Hi.\n",
    "YAML document": "---\nrows:\n  - id: a\n    text: Hi.\n",
    "YAML list": "rows:\n- id: a\n  text: Hi.\n",
    "TOML": '[[rows]]\nid = "a"\ntext = "Hi."\n',
    "INI": "[a]\ntext = Hi.\n",
    "HTML": "<!DOCTYPE html>\n<html><body>Log in</body></html>\n",
    "XML": '<?xml version="1.0"?>\n<rows><row id="a">Hi.</row></rows>',
    "XML without a head": '<rows>\n<row id="a">Hi.</row>\n</rows>\n',
    "SSML": "<speak>Hello <break/> there.</speak>",
    "SRT": "1\n00:00:01,000 --> 00:00:02,500\nHello.\n",
    "WebVTT": "WEBVTT\n\n00:01.000 --> 00:02.500\nHello.\n",
    "Python": "[{'id': 'a', 'text': 'Hi.'}]\n",
    "Python, a row a line": "{'id': 'a', 'text': 'Hi.'}\n{'id': 'b', 'text': 'Ho.'}\n",
    "SQL": "CREATE TABLE rows (id TEXT);\nINSERT INTO rows VALUES ('a');\n",
    "filelist": "wavs/a.wav|Good morning.|0\nwavs/b.wav|Hi.|1\n",
    "tabs without names": "a\tGood morning.\nb\tHi.\n",
    "commas without text": "id,sentence\na,Good morning.\nb,Hi.\n",
    "text with JSON": "Good morning.\nHi.\nHello.\n" + json.dumps(ROWS[0]) + "\n",
}


@pytest.mark.parametrize("name", ["rows", "rows.txt", "rows.md"])
@pytest.mark.parametrize("what", OTHER_TEXT)
def test_other_forms_of_text_are_refused_with_how_to_force_lines(tmp_path, what, name):
    path = write(tmp_path, OTHER_TEXT[what], name)
    with pytest.raises(InputError, match="--input-format lines"):
        choose_format(str(path), path)
    assert choose_format(str(path), path, "lines") == "lines"


@pytest.mark.parametrize("ending", ["yaml", "xml", "html", "toml", "srt", "json"])
def test_an_ending_that_is_of_another_form_is_refused(tmp_path, ending):
    path = write(tmp_path, "Good morning.\n", f"rows.{ending}")
    with pytest.raises(InputError, match="--input-format lines"):
        choose_format(str(path), path)


@pytest.mark.parametrize(
    ("name", "data"), [("rows.txt", JSONL), ("rows.txt", ARRAYS[0]), ("rows.txt", table(",")), ("rows.csv", JSONL)]
)
def test_a_name_that_says_otherwise_than_the_bytes_is_refused_with_both(tmp_path, name, data):
    path = write(tmp_path, data, name)
    found, named = ("csv" if data == table(",") else "json"), choose_format(name, write(tmp_path, "Hi.\n"))
    with pytest.raises(InputError, match=f"--input-format {found}.*--input-format {named}"):
        choose_format(str(path), path)


@pytest.mark.parametrize("line", ["{id: 1, text: x}", "[{id: 1}]", '{"id": "a"', "[" * 100_000])
def test_json_that_is_broken_everywhere_is_refused(tmp_path, line):
    with pytest.raises(InputError):
        read(write(tmp_path, line + "\n" + line + "\n"))


def test_the_command_refuses_before_it_looks_at_the_model(tmp_path):
    for name, data in (
        ("a.json", json.dumps({"rows": ROWS})),
        ("b.jsonl", archive()),
        ("c", ROWS[0]["text"].encode("utf-16")),
    ):
        path = write(tmp_path, data, name)
        result = CliRunner().invoke(main, ["batch", str(path), str(tmp_path / "out"), "-m", "no/such"])
        assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
    assert not (tmp_path / "out").exists()


def test_a_batch_of_an_array_is_resumed(tmp_path):
    path = write(tmp_path, json.dumps(ROWS), "rows.json")
    assert run_stub(path, tmp_path / "out").finished == 2
    speaker = StubSpeaker()
    assert run_stub(path, tmp_path / "out", speaker).done_before == 2 and speaker.n_spoken == 0
    write(tmp_path, json.dumps([ROWS[0], ROWS[1] | {"text": "Other."}]), "rows.json")
    with pytest.raises(InputError, match="row 2: id 'b'"):
        run_stub(path, tmp_path / "out")


def nested(depth):
    return "[" * depth + "1" + "]" * depth


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 330, 986, 100_000])
@pytest.mark.parametrize("key", ["temperature", "settings", "metadata", "book", "id", "text", "seed"])
def test_a_value_nested_deep_is_an_error_of_its_row(tmp_path, depth, key):
    row = {"id": "x", "text": "Hi."} | {key: "DEEP"}
    path = write(tmp_path, JSONL + json.dumps(row).replace('"DEEP"', nested(depth)) + "\n", "rows.jsonl")
    summary = run_stub(path, tmp_path / "out")
    assert (summary.finished, summary.failed) == (2, 1)


def test_cells_that_hold_json_have_the_same_bound(tmp_path):
    rows = f'id,text,metadata,temperature\na,Hi.,"{nested(986)}",\nb,Hi.,,"{nested(986)}"\nc,Hi.,{{}},0.5\n'
    summary = run_stub(write(tmp_path, rows, "rows.csv"), tmp_path / "out")
    assert summary.failed >= 1 and summary.finished + summary.failed == 3


def test_depth_counts_brackets_outside_of_strings():
    deep = json.dumps({"text": "[" * 1000 + '\\"' + "{" * 1000})
    assert read_strict(deep) == json.loads(deep)
    assert read_strict(nested(MAX_DEPTH)) and read_strict("[" + ",".join(["[]"] * 1000) + "]")
    with pytest.raises(InputError, match="65 levels deep"):
        read_strict(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_setting_beside_the_text_and_in_settings_is_refused(tmp_path, form):
    data = {
        "jsonl": '{"id": "a", "text": "x", "temperature": 0.5, "settings": {"temperature": 0.6}}\n',
        "csv": 'id,text,temperature,settings\na,x,0.5,"{""temperature"": 0.6}"\n',
    }[form]
    (row,) = read_rows(write(tmp_path, data), form)
    assert "temperature is 0.5 beside the text and 0.6 in settings" in row.error


def test_a_batch_whose_only_row_is_wrong_says_what_is_wrong_with_it(tmp_path):
    path = write(tmp_path, '{"id": "a", "text": "x", "temprature": 0.5}\n', "rows.jsonl")
    with pytest.raises(
        InputError, match=r"the only row of .* cannot be spoken\. line 1: 'temprature' is no setting"
    ) as caught:
        read(path)
    assert "--input-format" not in str(caught.value) and "be read" not in str(caught.value)

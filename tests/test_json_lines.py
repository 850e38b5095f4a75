"""The reader of JSON Lines: length bound, line numbers, allowed values."""

import io

import pytest

from bark_jax._system.json_lines import Fault, list_faults, read_lines, read_object
from bark_jax.errors import InputError


def read(data: bytes, max_bytes: int = 8) -> list[tuple[int, bytes | None]]:
    return list(read_lines(io.BytesIO(data), max_bytes))


def test_lines_are_numbered_with_the_blank_ones():
    assert read(b"a\n\n  \nb\r\nc") == [(1, b"a\n"), (4, b"b\r\n"), (5, b"c")]


@pytest.mark.parametrize("n_bytes", [8, 9, 16, 17, 30])
def test_a_line_beyond_the_bound_is_none_and_its_rest_no_line(n_bytes):
    assert read(b"x" * n_bytes + b"\nb\n") == [(1, None), (2, b"b\n")]
    assert read(b"a\n" + b"x" * n_bytes) == [(1, b"a\n"), (2, None)]


def test_a_line_as_long_as_the_bound_is_read():
    assert read(b"1234567\n1234567") == [(1, b"1234567\n"), (2, b"1234567")]


def test_a_byte_order_mark_is_left_out_in_front_of_the_first_line_alone():
    mark = b"\xef\xbb\xbf"
    assert read(mark + b"a\n" + mark + b"b\n") == [(1, b"a\n"), (2, mark + b"b\n")]
    assert read(mark + b"\nb\n") == [(2, b"b\n")]
    assert read(mark + b"x" * 8 + b"\nb\n") == [(1, None), (2, b"b\n")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "longer than 1,000 bytes"),
        (b"\xff", r"not UTF-8 \(byte 0\)"),
        (b"{", r"not JSON \("),
        (b'{"a": NaN}', r"not JSON \("),
        (b'{"a": 1, "a": 1}', "a key comes twice"),
        (b"[1]", r"\[1\], expected a JSON object"),
    ],
)
def test_what_is_no_object_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        read_object(data, 1000)


def test_an_object_is_its_fields():
    assert read_object(b'{"a": [1, null]}\n', 1000) == {"a": [1, None]}


def test_faults_are_listed_with_how_many_there_are_more():
    faults = [Fault(1, "it is empty"), Fault(2, "id is missing", "row")]
    assert list_faults("two:", faults, 2) == "two:\n  line 1: it is empty\n  row 2: id is missing"
    assert list_faults("many:", faults[:1], 2001) == "many:\n  line 1: it is empty\n  and 2,000 more"

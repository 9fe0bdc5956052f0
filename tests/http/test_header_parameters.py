"""Tests of `app/http/header_parameters.py`: values of clients, invalid headers, and the time to read them."""

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.header_parameters import parameters_of

CHARSETS = ["idna", "undefined", "punycode", "a%00b", "utf-7", "raw_unicode_escape", "utf-16-le", "zlib", "", "x" * 999]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("name=files", "files"),
        ('name="files"', "files"),
        ('NAME = "files" ', "files"),
        ("name=files ; x", "files"),
        ('x;;; ;name="files";', "files"),
        ('x="; name=none"; name=files', "files"),
        (r'x="\"; name=none"; name=files', "files"),
        (r'name="a\"b\\c"', 'a"b\\c'),
        ('name="a%22b"', 'a"b'),
        ('name="<files>"', "<files>"),
        (r'name="\"files\""', '"files"'),
        ('name=""', ""),
        ('name="files\\"', "files\\"),
        ('name="a"b"; x=1', "a"),
        ("name*=UTF-8''f%C3%BCnf", "fünf"),
        ("name*=utf-8'de'f%C3%BCnf", "fünf"),
        ("name*=iso-8859-1''f%FCnf", "fünf"),
        ("name*=\"UTF-8''f%C3%BCnf\"", "fünf"),
        ("name*=UTF-8''%ed%a0%80", "\ufffd\ufffd\ufffd"),
        ('name*0="fi"; name*1="les"', "files"),
        ("name*1=les; name*0=fi", "files"),
        ("name*0*=UTF-8''f%C3; name*1*=%BCn; name*2=f", "fünf"),
        ("name*=plain", "plain"),
    ],
)
def test_values_of_clients_are_read(parameter: str, value: str) -> None:
    """Tokens, quoted strings, values with a charset and values in pieces are read as the client means them."""
    assert parameters_of(f"form-data; {parameter}")["name"] == [value]


def test_distinct_values_are_returned() -> None:
    """A repeated parameter has all its distinct values, the plain ones first."""
    assert parameters_of("x; a*=UTF-8''3; a=1; a=2; a=1") == {"a": ["1", "2", "3"]}


@pytest.mark.parametrize("parameter", ['name="files', "name*1=a", "name*0=a; name*2=b"])
def test_incomplete_values_are_refused(parameter: str) -> None:
    """A quoted value without an end, or a value with a missing piece, is a ValueError."""
    with pytest.raises(ValueError, match=r"does not end|is missing"):
        parameters_of(f"form-data; {parameter}")


@pytest.mark.parametrize("charset", CHARSETS)
@pytest.mark.parametrize("value", ["x", "%FF", "\\ud800", "+2AA-", "%00%d8", "😀", "a" * 2000])
def test_the_client_chooses_no_codec(charset: str, value: str) -> None:
    """A value in any charset becomes text that UTF-8 can encode."""
    (name,) = parameters_of(f"form-data; name*={charset}''{value}")["name"]

    assert name.encode()


@settings(max_examples=500, derandomize=True, database=None, deadline=None)
@given(st.lists(st.sampled_from([*";=\"\\*'% \tan019\r\n", "%ff", "utf-8''", "name", "\ud7ff", "٣"])).map("".join))
def test_any_header_is_read_or_refused(header: str) -> None:
    """Any header is read, or refused with a ValueError for one of the two reasons."""
    try:
        values = parameters_of(header)
    except ValueError as error:
        assert "does not end" in str(error) or "is missing" in str(error)  # noqa: PT017 (both outcomes are valid)
    else:
        assert all(value.encode() is not None for each in values.values() for value in each)


@pytest.mark.parametrize(
    "unit",
    [
        *(
            ";",
            "; ",
            " ",
            "\t",
            '"',
            "\\",
            "=",
            "*",
            "'",
            "%",
            ";a",
            ";a=",
            ';a="',
            ';a=""',
            ';a="\\',
            ";a*=",
            ";a*=''",
        ),
        *(
            ";a*=''",
            ";a*=utf-8''%ff",
            "a*",
            "*0",
            ";a*0=",
            ';a\\="',
            "; =",
            ' ;="',
            ";a = ",
            "'a",
            "%4",
            ";\r\n",
            ";*",
            "**=",
        ),
    ],
)
def test_the_time_grows_linearly(unit: str) -> None:
    """A header of four times the length takes less than nine times as long; a square would be sixteen times."""

    def seconds(length: int) -> float:
        header = "form-data; " + unit * (length // len(unit))
        spent = []
        for _ in range(5):
            begun = time.thread_time()
            with contextlib.suppress(ValueError):
                parameters_of(header)
            spent.append(time.thread_time() - begun)
        return min(spent)

    assert seconds(40_000) < 9 * max(seconds(10_000), 1e-4)

"""Tests of `app/http/forms.py`: each part of the image field is an image; malformed forms are refused."""

import itertools
import time
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from app.bundle.load import Bundle
from app.errors import InvalidParameter, UnsupportedEncoding
from app.http.forms import MAX_TEXT_BYTES, MAX_TEXT_FIELDS, Form
from app.main import create_app
from app.settings import Settings

TYPE = "multipart/form-data; boundary=B"
NAMED = 'name="files"; filename="{}.png"'.format
PLAIN = 'name="files"'
IMAGE = b"\x89PNG\r\n\x1a\n\0\0"  # has zero bytes, as image files do and texts do not


def form_of(*parts: tuple[str, bytes], end: bytes = b"--B--\r\n") -> bytes:
    """Return a form. Each part is the text after `Content-Disposition: form-data; `, and the content."""
    head = "--B\r\nContent-Disposition: form-data; {}\r\n\r\n"
    return b"".join(head.format(header).encode() + content + b"\r\n" for header, content in parts) + end


def read(pieces: Sequence[bytes], content_type: str = TYPE, max_images: int = 8) -> list[bytes]:
    """Return the images of the field `files`."""
    form = Form(content_type, ["files"], max_images)
    for piece in pieces:
        form.feed(piece)
    return form.images()


def in_pieces(body: bytes) -> Iterator[list[bytes]]:
    """Yield the body in two pieces, for each place of the cut, and in single bytes."""
    yield from ([body[:place], body[place:]] for place in range(len(body) + 1))
    yield [bytes([byte]) for byte in body]


def refusal_of(body: bytes, content_type: str = TYPE, max_images: int = 8) -> str:
    """Return the detail of the error, which must be the same for every cut."""
    details = set()
    for pieces in in_pieces(body):
        with pytest.raises((InvalidParameter, UnsupportedEncoding)) as caught:
            read(pieces, content_type, max_images)
        details.add(caught.value.detail)
    (detail,) = details
    return detail


@pytest.mark.parametrize(
    "header",
    [
        NAMED("a"),
        PLAIN,
        "name=files",
        f"{PLAIN}\r\nContent-Type: image/png",
        f"{PLAIN}\r\nContent-Type: text/plain; charset=utf-8",
        f"{PLAIN}; filename*=UTF-8''f%C3%BCnf.png",
        f"{PLAIN}; filename*=nonsense''%ff",
        f"{PLAIN}; filename=\"a.png\"; filename*=UTF-8''b.png",
        f'{PLAIN}; filename=""',
        f'{PLAIN}; filename="a;b\\"c\\\\.png"',
        f'{PLAIN}; filename="C:\\dir\\five.png"',
        f'{PLAIN}; filename="fünf.png"',
        f'filename="a.png"; {PLAIN}',
        f"{PLAIN}\r\nContent-Transfer-Encoding: binary\r\nContent-Length: 11\r\nMIME-Version: 1.0",
        PLAIN + "\r\nX-More: 1" * 20,
        'Name="files"',
        "name*=UTF-8''files",
    ],
)
def test_each_part_of_the_field_is_an_image(header: str) -> None:
    """A part is an image with any file name or none, and keeps its place among the others."""
    body = form_of((NAMED(4), b"four"), (header, IMAGE), (NAMED(6), b"six"))

    for pieces in in_pieces(body):
        assert read(pieces) == [b"four", IMAGE, b"six"]


# Contents with pieces that resemble boundaries.
CONTENT = st.lists(
    st.sampled_from([b"\r", b"\n", b"-", b"B", b"\r\n--", b"\r\n--B", b"\r\n--Boundary+Bx", b"\r\n--Boundary", b"\0"])
).map(b"".join)


@settings(max_examples=400, derandomize=True, database=None, deadline=None)
@given(st.lists(CONTENT, min_size=1, max_size=4), st.lists(st.integers(0, 400), max_size=12))
def test_any_content_is_returned_for_any_cut(contents: list[bytes], places: list[int]) -> None:
    """The bytes between the headers of a part and the next boundary are the image."""
    boundary = "Boundary+B"
    body = form_of(*((PLAIN, content) for content in contents)).replace(b"--B\r\nContent", b"--Boundary+B\r\nContent")
    body = body.removesuffix(b"--B--\r\n") + b"--Boundary+B--\r\n"
    cuts = sorted({min(place, len(body)) for place in places} | {0, len(body)})
    pieces = [body[start:end] for start, end in itertools.pairwise(cuts)]

    assert read(pieces, f"multipart/form-data; boundary={boundary}") == contents


def test_an_incomplete_form_is_refused() -> None:
    """A form that is cut anywhere before the end of its last boundary is refused."""
    body = form_of((NAMED(4), b"four"), (PLAIN, IMAGE))
    whole = len(body) - len("\r\n")
    for length in range(whole):
        with pytest.raises(InvalidParameter, match="is missing"):
            read([body[:length]])

    assert [read([body[:length]]) for length in (whole, whole + 1, whole + 2)] == [[b"four", IMAGE]] * 3
    assert refusal_of(body[: whole - 4]) == "The form is cut off in its part 2: its last boundary, --B--, is missing."


@pytest.mark.parametrize("before", [b"", b"\r\n", b"\n\n", b"A preamble - with --B in it, and --Bx.\r\n--Bx\r\n--\r\n"])
@pytest.mark.parametrize("after", [b"", b"\r\nAn epilogue.\r\n--B\r\n--B--\r\n"])
def test_a_preamble_and_an_epilogue_are_ignored(before: bytes, after: bytes) -> None:
    """Bytes before the first and after the last boundary are ignored (RFC 2046, section 5.1.1)."""
    body = before + form_of((PLAIN, b"one"), (PLAIN, b"two"), end=b"--B--") + after

    for pieces in in_pieces(body):
        assert read(pieces) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ('multipart/form-data; boundary="B"', b"B"),
        ("Multipart/Form-Data;BOUNDARY=B", b"B"),
        ('multipart/form-data; charset=utf-8; boundary="a b;c"', b"a b;c"),
        ('multipart/form-data; boundary="<B>"', b"<B>"),
        ("multipart/form-data; boundary=<B>", b"<B>"),
        ("multipart/form-data; boundary*=idna''B", b"B"),
        ("multipart/form-data; boundary=B; x*=undefined''B", b"B"),
        ("multipart/form-data; boundary=B; boundary=B", b"B"),
        ("multipart/form-data; boundary=----WebKitFormBoundaryA1'()+_,-./:=?", b"----WebKitFormBoundaryA1'()+_,-./:=?"),
        (f"multipart/form-data; boundary={'x' * 70}", b"x" * 70),
    ],
)
def test_boundaries_of_clients_are_read(content_type: str, boundary: bytes) -> None:
    """A boundary is read with or without quotation marks, with all characters of RFC 2046."""
    body = form_of((PLAIN, b"one"), (PLAIN, b"two")).replace(b"--B", b"--" + boundary)

    assert read([body], content_type) == [b"one", b"two"]


def test_white_space_after_a_boundary_is_no_part_of_it() -> None:
    """White space after a boundary is ignored (RFC 2046, section 5.1.1)."""
    body = form_of((PLAIN, b"one"), (PLAIN, b"two")).replace(b"--B\r\n", b"--B \t\r\n")

    for pieces in in_pieces(body):
        assert read(pieces) == [b"one", b"two"]


def test_an_empty_part_keeps_its_place() -> None:
    """An empty part counts as an image without bytes."""
    for pieces in in_pieces(form_of((PLAIN, b"one"), (NAMED("x"), b""), (PLAIN, b"three"))):
        assert read(pieces) == [b"one", b"", b"three"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (form_of((PLAIN, b"one")).replace(b"\r\n", b"\n"), "The lines of the form end in LF"),
        (form_of((PLAIN, b"one"), (PLAIN, b"two")).replace(b"one\r\n", b"one\n"), "malformed"),
        (form_of((PLAIN, b"one"), (PLAIN, b"two"), end=b"").replace(b"two\r\n", b"two\n--B--\r\n"), "is missing"),
        (form_of((PLAIN, b""), (PLAIN, b"two")).replace(b"\r\n\r\n\r\n", b"\r\n\r\n"), "malformed"),
        (form_of((PLAIN, b"one")).replace(b"\r\n\r\n", b"\n\n"), "malformed in its part 1"),
        (form_of((f"{PLAIN}\r\nno colon", b"one")), "malformed in its part 1"),
        (form_of(*[(f"{PLAIN}\r\n{'X: y' * 2000}", b"one")]), "part 1: a header is longer than 4096 bytes."),
        (form_of((PLAIN + "\r\nX-More: 1" * 40, b"one")), "part 1: it has more than 32 headers."),
        (
            form_of((PLAIN, b"one")).replace(b"form-data; ", b"form-data;\r\n "),
            "part 1: a header line begins with white",
        ),
        (
            form_of((PLAIN, b"one")).replace(b"form-data; ", b"form-data;\r\n\t"),
            "part 1: a header line begins with white",
        ),
        (form_of((PLAIN, b"one")).replace(b"ion:", b"ion :"), "or has some before its colon"),
        (form_of((PLAIN, b"one")).replace(b"\r\n\r\n", b"\r\n"), "put an empty line between"),
        (IMAGE, "its first boundary, --B, is missing"),
        (b"", "its first boundary, --B, is missing"),
        (b"--B--\r\n", "no file in a field named 'files'."),
    ],
)
def test_a_malformed_form_is_refused(body: bytes, message: str) -> None:
    """A malformed form is refused as a whole, with the reason."""
    pieces = in_pieces(body) if len(body) < 1000 else iter([[body]])
    for each in pieces:
        with pytest.raises(InvalidParameter) as caught:
            read(each)
        assert message in caught.value.detail


@pytest.mark.parametrize(
    ("header", "content"),
    [
        ('name="image"; filename="a.png"', IMAGE),
        ('name="image"; filename="a.png"', b""),
        ('name="image"; filename="a.txt"\r\nContent-Type: text/plain', b"text"),
        ("name=\"image\"; filename*=UTF-8''a.png", b"text"),
        ('name="image"; filename=""', IMAGE),
        ('name="image"\r\nContent-Type: image/png', b"text"),
        ('name="image"\r\nContent-Type: application/octet-stream', b"bytes"),
        ('name="image"', IMAGE),
        ('name="image"', b"GIF89a\1\0\1\0"),
        ('name="image"', b"data:image/png;base64,iVBORw0KGgo="),
        ('name="image"', b"iVBORw0KGgoAAAANSUhEUgAAABQ="),
        ('name="image"', b"/9j/4AAQSkZJRgABAQ=="),
        ('name="image"', b"AAAAIGZ0eXBhdmlmAAAA"),
        ('name="image"', b'{"data": "iVBORw0KGgoAAAANSUhEUgAAABQ="}'),
        ('name="image"', b'<?xml version="1.0"?><svg xmlns="x"/>'),
        ('name="image"\r\nContent-Type: image/svg+xml', b"<svg/>"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_files_in_other_fields_are_refused_by_name(header: str, content: bytes, place: int) -> None:
    """A file in another field is refused, because the results would lack it."""
    parts = [(NAMED(1), b"one")]
    parts.insert(place, (header, content))

    detail = "The form has a file in the field 'image'; send images in the field 'files'."
    assert refusal_of(form_of(*parts)) == detail


@pytest.mark.parametrize("charset", ["idna", "undefined", "a%00b", "utf-7", "raw_unicode_escape", "utf-16-le"])
@pytest.mark.parametrize("value", ["%FF", "\\ud800", "+2AA-", "%00%d8", "\n"])
def test_an_unknown_name_is_printable_in_the_message(charset: str, value: str) -> None:
    """The message with a name in any charset is one printable line."""
    with pytest.raises(InvalidParameter) as caught:
        read([form_of((f"name*={charset}''x%0A{value.strip()}; filename=a", IMAGE))])

    assert caught.value.detail.isprintable()


@pytest.mark.parametrize("name", ['"<files>"', '"\\"files\\""', '"%22files%22"'])
def test_quotation_marks_and_brackets_belong_to_a_name(name: str) -> None:
    """A name with quotation marks or brackets around `files` is another field."""
    assert "in the field '" in refusal_of(form_of((f"name={name}; filename=a", IMAGE)))


@pytest.mark.parametrize("header", ["name=note; name*=UTF-8''files", "name=files; name=note"])
def test_a_part_with_two_names_is_refused(header: str) -> None:
    """A part with two names is refused, because one of the names would drop it."""
    assert "more than one name" in refusal_of(form_of((PLAIN, b"one"), (header, b"two")))


def test_a_form_with_two_boundaries_is_refused() -> None:
    """A Content-Type with two boundaries is refused."""
    with pytest.raises(InvalidParameter, match="more than one boundary"):
        Form("multipart/form-data; boundary=B; boundary=C", ["files"], 1)


def test_long_headers_cost_little() -> None:
    """64 parts with 4,000 semicolons each are read in 0.4 s."""
    body = form_of(*[(PLAIN + ";" * 4000, b"x")] * 64)
    begun = time.thread_time()
    read([body], max_images=64)

    assert time.thread_time() - begun < 0.4


FIVE = b'Content-Disposition: form-data; name="files"\r\n\r\nfive\r\n'


@pytest.mark.parametrize(
    "between",
    [
        *(b"--Boundary\r\n", b"\r--Boundary\r\n", b"\r\n--Boundary\r", b"\r\n--Boundary\n", b"\n--Boundary \r\n"),
        *(b"\r\n-Boundary\r\n", b"\r\n--boundary\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\r\n--Other\r\n"),
        *(b"\r\n--Boundary--\r\n--Boundary\r\n", b"\r\n--Boundary--\r\n", b"\r\n--Boundary x\r\n", b"--Boundary--\r\n"),
    ],
)
@pytest.mark.parametrize("lower", [False, True])
def test_a_part_after_a_damaged_boundary_is_not_lost(between: bytes, *, lower: bool) -> None:
    """A damaged boundary that would hide a part in another part, the preamble or the epilogue is refused."""
    five = FIVE.replace(b"Content-D", b"content-d") if lower else FIVE
    four = b"--Boundary\r\n" + FIVE.replace(b"five\r\n", b"four")
    preamble = b"-" + between.strip(b"\r\n-").lower().removesuffix(b"--") + b"\r\n" + five + b"--Boundary\r\n" + FIVE
    for body in (four + between + five + b"--Boundary--\r\n", preamble + b"--Boundary--\r\n"):
        for pieces in in_pieces(body):
            with pytest.raises(InvalidParameter):
                read(pieces, "multipart/form-data; boundary=Boundary")


def test_a_form_in_a_form_is_refused_in_any_field() -> None:
    """A part that is a form itself is refused in another field, too, because its images would be dropped."""
    inner = b"--C\r\nContent-Disposition: file; filename=a\r\n\r\nfive\r\n--C--"
    header = 'name="more"\r\nContent-Type: multipart/mixed; boundary=C'

    assert "Part 2 of the form is a form itself" in refusal_of(form_of((PLAIN, b"one"), (header, inner)))


@pytest.mark.parametrize("unit", [b"\n", b"\r\n", b"\r\n--", b"--Bx", b"--B ", b"\nContent-Disposition", b"<svg", b"'"])
@pytest.mark.parametrize("header", [PLAIN, 'name="note"'])
def test_the_time_grows_linearly(unit: bytes, header: str) -> None:
    """The time to read a content grows linearly, even if the content repeats the beginning of a searched text."""

    def seconds(length: int) -> float:
        body = form_of((PLAIN, b"x"), (header, unit * (length // len(unit)) + b"x"))
        spent = []
        for _ in range(3):
            begun = time.thread_time()
            read([body])
            spent.append(time.thread_time() - begun)
        return min(spent)

    assert seconds(400_000) < 9 * max(seconds(100_000), 1e-3)


@pytest.mark.parametrize("name", ["file", "files[]", "Files", "files ", "", "für", "x" * 300])
def test_other_names_are_repeated(name: str) -> None:
    """The message repeats the name of another field, shortened if it is long."""
    detail = refusal_of(form_of((f'name="{name}"; filename="a.png"', IMAGE)))

    assert f"in the field '{name[:100]}" in detail
    assert len(detail) < 250


def test_text_fields_are_ignored() -> None:
    """Text, JSON and an empty file input in other fields are ignored."""
    texts = [
        ('name="note"', "größer".encode()),
        ('name="note"', "größer".encode("latin-1")),
        ('name="filename"', b"a.png"),
        ('name="meta"\r\nContent-Type: application/json', b'{"a": 1}'),
        ('name="other"; filename=""\r\nContent-Type: application/octet-stream', b""),
        ('name="long"', b"x" * MAX_TEXT_BYTES),
    ]

    assert read([form_of(texts[0], (PLAIN, b"one"), *texts[1:], (PLAIN, b"two"))]) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([('name="n"', b"x")] * (MAX_TEXT_FIELDS + 1), "more than 16 fields beside 'files'"),
        ([('name="n"', b"x" * (MAX_TEXT_BYTES + 1))], "'n' is longer than 1 MiB"),
        ([(PLAIN, b"x")] * 9, "more than 8 images"),
        ([('name="n"', b"x"), ('name="m"', b"x")], "no file in a field named 'files'; it has 'n', 'm'."),
        ([('filename="a.png"', b"x")], "Part 1 of the form has no name"),
        ([(PLAIN, b"x"), ("\r\nContent-Type: image/png", b"x")], "Part 2 of the form has no name"),
        ([(f"{PLAIN}\r\nContent-Type: multipart/mixed; boundary=C", b"x")], "Part 1 of the form is a form itself"),
        ([("name*1=a; name*=b", b"x")], "cannot be read"),
    ],
)
def test_forms_are_limited(parts: list[tuple[str, bytes]], message: str) -> None:
    """A form with too many fields or images, too long a text, or a part without a name is refused."""
    with pytest.raises(InvalidParameter) as caught:
        read([form_of(*parts)])

    assert message in caught.value.detail


def test_an_image_needs_no_file_name_at_any_size() -> None:
    """An image without a file name can be longer than a text."""
    image = bytes(3 * 2**20)

    assert read([form_of((PLAIN, image))]) == [image]


@pytest.mark.parametrize("header", ["Content-Transfer-Encoding", "Content-Encoding"])
@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "gzip"])
def test_an_encoded_part_is_refused_by_name(header: str, encoding: str) -> None:
    """The message names the encoding of the part."""
    detail = refusal_of(form_of((PLAIN, b"one"), (f"{PLAIN}\r\n{header}: {encoding}", b"eA==")))

    assert f"Part 2 of the form has {header}: {encoding}." in detail


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary=""', f"{TYPE}{'B' * 100}"],
)
def test_a_form_needs_a_boundary(content_type: str) -> None:
    """A Content-Type without a boundary, or with too long a one, is refused."""
    with pytest.raises(InvalidParameter, match="boundary"):
        Form(content_type, ["files"], 1)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with the demo bundle."""
    with TestClient(create_app(Settings(device="cpu", threads=1))) as client:
        yield client


def labels(client: TestClient, body: bytes, path: str = "/classify/batch") -> list[str]:
    """Return the best class or the error code of each result, in order."""
    answer = client.post(path, content=body, headers={"content-type": TYPE}).json()
    return [
        result["error"]["code"] if "error" in result else result["predictions"][0]["label"]
        for result in answer["results"]
    ]


def test_results_are_in_the_order_and_number_of_the_parts(client: TestClient, demo: Bundle) -> None:
    """Over HTTP, each part has its result in its place, with any file name, empty, or not an image."""
    four, five, six = ((demo.folder / f"golden/{name}.png").read_bytes() for name in ("four", "five", "six"))
    body = form_of(
        (NAMED(4), four),
        (PLAIN, five),
        (f"{PLAIN}; filename*=UTF-8''sechs.png", six),
        (PLAIN, b""),
        (PLAIN, b"no image"),
        (NAMED(4), four),
    )

    assert labels(client, body) == ["four", "five", "six", "unreadable_image", "unsupported_image", "four"]


@pytest.mark.parametrize(
    "header", ['name="file"', "name=\"file\"; filename*=UTF-8''vier.png", 'name="file"; filename="4"']
)
def test_one_image_needs_no_file_name_either(client: TestClient, demo: Bundle, header: str) -> None:
    """`/classify` takes a form with one part, with any file name or none."""
    four = (demo.folder / "golden/four.png").read_bytes()
    answer = client.post("/classify", content=form_of((header, four)), headers={"content-type": TYPE})

    assert answer.json()["predictions"][0]["label"] == "four"


@pytest.mark.parametrize("path", ["/classify", "/classify/batch"])
def test_an_incomplete_form_is_a_422(client: TestClient, demo: Bundle, path: str) -> None:
    """Over HTTP, a form without its last boundary is refused, although the body has its announced length."""
    four = (demo.folder / "golden/four.png").read_bytes()
    part = b'--B\r\nContent-Disposition: form-data; name="file'
    body = part + (b's"' if path.endswith("batch") else b'"') + b"\r\n\r\n" + four
    answer = client.post(path, content=body, headers={"content-type": TYPE})

    assert answer.status_code == 422
    assert "cut off" in answer.json()["detail"]


def test_a_second_image_is_not_dropped(client: TestClient) -> None:
    """`/classify` refuses a form with two images, and names the path for several."""
    body = form_of(('name="file"; filename="a"', b"one"), ('name="file"', b"two"))
    answer = client.post("/classify", content=body, headers={"content-type": TYPE})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert "/classify/batch" in answer.json()["detail"]

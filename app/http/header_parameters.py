"""The parameters of headers such as `Content-Disposition` and `Content-Type`. Knows nothing about forms.

The grammar is that of RFC 9110, section 5.6.6. It includes the values of RFC 8187 (`filename*`),
the pieces of RFC 2231 (`name*0`), and `%22`, which browsers write for a quotation mark.

The time to read a header grows linearly with its length. In `email.message`, the time grows with
the square of the length, and the client chooses the codec of Python that decodes a value.
"""

import re
from urllib.parse import unquote_to_bytes

from app.validation_messages import shorten

# One parameter, from its semicolon to the next. The possessive quantifiers prevent backtracking.
PARAMETER = re.compile(
    r';[ \t;]*+(?:([^\s=;"]++)[ \t]*+=[ \t]*+(?:"((?:[^"\\]|\\.)*+)("?+)|([^;]*+)))?+[^;]*+', re.DOTALL
)
ESCAPE = re.compile(r"\\(.)", re.DOTALL)
# A name, with an optional number of a piece and an optional star.
EXTENDED = re.compile(r"(.+?)(?:\*(0|[1-9][0-9]{0,3}))?(\*?)", re.DOTALL)
# A value with its charset and language.
ENCODED = re.compile(r"([^']*)'[^']*'(.*)", re.DOTALL)
UTF_8 = {"utf-8", "utf8"}


def parameters_of(header: str) -> dict[str, list[str]]:
    """Return the distinct values of each parameter, by its name in lower case; plain values come first.

    Raises:
        ValueError: a quoted value does not end, or a piece of a value is missing.
    """
    found = dict[str, list[str]]()
    pieces = dict[str, dict[int, tuple[str, bool]]]()
    encoded = list[tuple[str, str]]()
    for name, value in _pairs(header):
        if "*" not in name:
            found.setdefault(name, []).append(value)
            continue
        plain, number, star = _parts_of(name)
        if number:
            pieces.setdefault(plain, {}).setdefault(int(number), (value, bool(star)))
        else:
            encoded.append((plain, _decoded(value) if star else value))
    for name, of_name in pieces.items():
        encoded.append((name, _joined(name, of_name)))
    for name, value in encoded:
        found.setdefault(name, []).append(value)
    return {name: list(dict.fromkeys(values)) for name, values in found.items()}


def _pairs(header: str) -> list[tuple[str, str]]:
    pairs = list[tuple[str, str]]()
    place = header.find(";")
    while place >= 0 and (match := PARAMETER.match(header, place)):
        name, quoted, end, plain = match.groups()
        if quoted is not None and not end and quoted.endswith('\\"'):
            quoted = quoted[:-2] + 2 * "\\"  # browsers do not escape backslashes, so this one ends the value
        elif quoted is not None and not end:
            raise ValueError("a quoted value does not end")
        if name is not None:
            value = plain.rstrip() if quoted is None else ESCAPE.sub(r"\1", quoted).replace("%22", '"')
            pairs.append((name.lower(), value))
        place = match.end() if match.end() < len(header) else -1
    return pairs


def _parts_of(name: str) -> tuple[str, str | None, str]:
    match = EXTENDED.fullmatch(name)
    if match is None:
        return name, None, ""
    return match[1], match[2], match[3]


def _joined(name: str, pieces: dict[int, tuple[str, bool]]) -> str:
    if sorted(pieces) != list(range(len(pieces))):
        raise ValueError(f"a piece of the parameter {shorten(name)} is missing")
    values = [pieces[number] for number in range(len(pieces))]
    if not values[0][1]:
        return "".join(unquote_to_bytes(value).decode(errors="replace") if star else value for value, star in values)
    charset, text = _charset_of(values[0][0])
    whole = [unquote_to_bytes(text)]
    whole += [unquote_to_bytes(value) if star else value.encode(errors="replace") for value, star in values[1:]]
    return _text(charset, b"".join(whole))


def _decoded(value: str) -> str:
    charset, text = _charset_of(value)
    return _text(charset, unquote_to_bytes(text))


def _charset_of(value: str) -> tuple[str, str]:
    match = ENCODED.fullmatch(value)
    return (match[1].strip().lower(), match[2]) if match else ("utf-8", value)


def _text(charset: str, value: bytes) -> str:
    # The client cannot choose a codec of Python: some fail, return surrogates or take long.
    return value.decode("utf-8" if charset in UTF_8 else "latin-1", errors="replace")

"""Words for messages about values that are not valid. Knows nothing about settings or requests."""

# Characters of a value that a message repeats.
MAX_SHOWN = 100

# The reason why a value is not valid, by pydantic's name for the error.
REASONS = {
    "int_parsing": "not a whole number",
    "int_from_float": "not a whole number",
    "int_parsing_size": "not a whole number",
    "float_parsing": "not a number",
    "finite_number": "not a finite number",
    "bool_parsing": "neither true nor false",
    "greater_than": "too small",
    "greater_than_equal": "too small",
    "less_than": "too large",
    "less_than_equal": "too large",
    "literal_error": "not one of the choices",
    "string_too_short": "empty",
    "too_short": "empty",
    "missing": "missing",
    "extra_forbidden": "not a known option",
    "ip_any_network": "not an IP address or network",
}


def printable(text: str) -> str:
    """Return a text with its unprintable characters escaped, so that it stays in one line of a terminal."""
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def shorten(value: str) -> str:
    """Return a value for a message: its first `MAX_SHOWN` characters, with unprintable ones escaped."""
    return printable(value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}…")

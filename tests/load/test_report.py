"""The report of a measurement."""

import re
from html.parser import HTMLParser

from app.load.figures import Table
from app.load.picture import Point, Series, draw
from app.load.report import report

HOSTILE = "<script>alert('x')</script>&\x1b[2J\""


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.texts = list[str](), list[tuple[str, str | None]](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def page(name: str = "a service") -> str:
    svg = draw(name, [Series(name, [Point(10, 5, 20)])]).svg()
    return report(name, svg, [Table(name, [name, "requests/s"], [[name, "10.0"]])], [name], {name: name})


def test_a_report_holds_picture_tables_remarks_and_facts() -> None:
    """All parts are in one page, with a language, a title, and a width for phones."""
    elements = Elements(page())

    assert {"svg", "table", "th", "td", "dl", "strong", "title"} <= set(elements.tags)
    assert {("lang", "en"), ("name", "viewport"), ("role", "img")} <= set(elements.attributes)
    assert {"a service", "A service", "requests/s", "10.0"} <= set(elements.texts)


def test_columns_with_words_are_left_aligned() -> None:
    """Numbers are aligned to the right. Words are not, and wrap."""
    table = Table("a table", ["settings", "requests/s"], [["max_batch=1", "10.0"]], texts=(0,))
    elements = Elements(report("a page", "<svg></svg>", [table], [], {}))

    assert elements.attributes.count(("class", "words")) == 2


def test_a_report_loads_nothing_and_runs_nothing() -> None:
    """There is no script and no address. The policy forbids both."""
    text = page()
    elements = Elements(text)

    assert "://" not in text
    assert "script" not in elements.tags
    assert not {"src", "onclick", "onload"} & {name for name, _ in elements.attributes}
    assert all(value and value.startswith("#") for name, value in elements.attributes if name == "href")
    assert not re.search(r"url\((?!#)", text)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in elements.attributes


def test_hostile_names_are_text() -> None:
    """A name from a service is shown as it is, and adds no element in any place."""
    plain, hostile = Elements(page()), Elements(page(HOSTILE))

    assert hostile.tags == plain.tags
    shown = HOSTILE.replace("\x1b", "\\x1b")
    assert hostile.texts.count(shown) == 1 + plain.texts.count("a service")  # the title of a table has no capital now


def test_a_report_follows_the_page() -> None:
    """Both the page and the picture have colors for dark pages."""
    assert page().count("@media (prefers-color-scheme: dark)") == 2

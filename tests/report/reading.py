"""Reads a page as a browser would, and asserts what holds for every page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

EVIL = "</pre><script>alert('x')</script>\x00\udcff & \u202e|* {{ 7 * 7 }} $x_1$"
SHOWN = "</pre><script>alert('x')</script>\\x00\\xff & \\u202e|* {{ 7 * 7 }} $x_1$"
_VOID = {"meta", "br", "hr"}


class Reader(HTMLParser):
    """Collects the text, the titles of sections, the tags and every attribute, and checks that elements close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def read(page: Path) -> Reader:
    """Parses a page: it is well nested, runs no script, fetches nothing, and shows no number that is none."""
    source = page.read_text("utf-8")
    reader = Reader()
    reader.feed(source)
    reader.close()
    assert reader.open == [] and not {"script", "link", "img", "iframe", "object", "image"} & set(reader.tags)
    links = [value for name, value in reader.attributes if name in ("src", "href", "xlink:href") or name.startswith("on")]
    assert all(value and value.startswith("#") for value in links)
    ids = {value for name, value in reader.attributes if name == "id"}
    assert {str(value)[1:] for value in links} <= ids
    assert "@import" not in source and re.search(r"url\((?!#)", source) is None
    assert re.search(r"\b(nan|inf|undefined|None)\b", reader.text) is None
    return reader

"""Reads pages as a browser does."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Reader(HTMLParser):
    """Collects the text, the tags and every attribute, and checks that elements close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Path | str) -> Reader:
    """Parses a page and asserts what holds for every page: well nested, no script, nothing fetched."""
    source = page.read_text("utf-8") if isinstance(page, Path) else page
    reader = Reader()
    reader.feed(source)
    reader.close()
    assert reader.open == [] and "script" not in reader.tags
    assert not {"link", "img", "iframe", "object", "image", "use"} & set(reader.tags)
    assert not [name for name, _ in reader.attributes if name in ("src", "href") or name.startswith("on")]
    assert "@import" not in source and re.search(r"url\((?!#)", source) is None
    return reader

"""What a page of results has: its elements, texts and tables, as a browser without scripts sees them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "link", "input", "br"}


class Page(HTMLParser):
    """Tags, attributes, text, tables and embedded figures of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.content, self.text, self.script = content, "", ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._tables: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._inside: dict[str, str | None] = {}
        self.data: dict[str, Any] = {}
        self.feed(content)
        assert self._open == []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = dict(attrs)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows = []
            self._tables[dict(attrs).get("id") or f"table {len(self._tables)}"] = self._rows
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        opened = self._open.pop()
        assert tag == opened, f"</{tag}> ends <{opened}>"

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            if self._inside.get("type") == "application/json":
                self.data = json.loads(data)
            else:
                self.script = data
        elif self._open[-1:] != ["style"]:
            self.text += data
            if "td" in self._open or "th" in self._open:
                self._rows[-1][-1] += data

    def rows(self, table: str) -> list[list[str]]:
        """Texts of the cells of a table's body."""
        return [[cell.strip() for cell in row] for row in self._tables[table][1:]]

    def check(self) -> None:
        """One script and one style under a nonce, nothing from elsewhere, and unique names."""
        names = [tag for tag, _ in self.tags]
        (policy,) = (a["content"] for t, a in self.tags if a.get("http-equiv") == "Content-Security-Policy")
        nonces = re.findall(r"'nonce-([0-9a-f]{32})'", policy or "")
        assert len(nonces) == 2 and "unsafe" not in (policy or "") and "default-src 'none'" in (policy or "")
        assert names.count("script") == 2 and names.count("style") == 1 and "iframe" not in names
        for tag, attributes in self.tags:
            if tag in ("script", "style") and attributes.get("type") != "application/json":
                assert attributes["nonce"] == nonces[0] == nonces[1]
            assert not any(name.startswith("on") or name == "style" for name in attributes)
            for name in ("href", "src", "xlink:href"):
                assert (attributes.get(name) or "#").startswith(("#", "data:"))
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        targets = {(attributes.get("href") or "")[1:] for tag, attributes in self.tags if tag == "a"}
        assert targets <= set(ids)
        assert not re.search(r"url\((?!#)", self.content)

"""Pages read back: their elements, their data, and a browser to look at them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`${7*7}{{7*7}}\u2028"
"""A text of a stranger that would like to be run."""


class Page(HTMLParser):
    """The elements of a page, and the texts in them."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.data: dict[str, Any] = {}
        self._inside: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = self.elements[-1]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ("", {})

    def handle_data(self, data: str) -> None:
        tag, attributes = self._inside
        if tag == "script" and attributes.get("type") == "application/json":
            self.data[str(attributes["id"])] = json.loads(data)
        elif tag in ("script", "style"):
            (self.scripts if tag == "script" else self.styles).append(data)
        else:
            self.texts.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def found(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def assert_inert(page: Page) -> None:
    """One script and one style, both allowed by their hashes; no handler, no address outside of the page."""
    (policy,) = [a["content"] for a in page.found("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; img-src data:; ")
    (script,), (style,) = page.scripts, page.styles
    for kind, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}';" in str(policy)
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "link")
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        assert (attributes.get("src") or "data:image/").startswith("data:image/"), (tag, attributes)
        assert not re.match(r"\s*[a-z]+:", attributes.get("href") or "", re.IGNORECASE), (tag, attributes)


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium, or skip where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="pages are driven by playwright: pip install playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("pages are looked at in Chromium: apt-get install chromium")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(path: Path, **context: Any) -> Iterator[Any]:
    """Open a page; at the end nothing was said on its console, and nothing was asked of a network."""
    said: list[str] = []
    with chromium() as browser:
        page = browser.new_context(**context).new_page()
        page.on("console", lambda message: said.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: said.append(f"request: {request.url}") if outside(request.url) else None)
        page.goto(path.resolve().as_uri())
        yield page
    assert said == []


def outside(address: str) -> bool:
    return not address.startswith(("file:", "data:"))

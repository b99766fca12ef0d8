"""The shell of a page: one file, nothing loaded from anywhere, and a policy that forbids it."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

from bertpress.report.markup import Child, Markup, element, join, verbatim


class Section(NamedTuple):
    """A part of the page under a heading; ``key`` is its anchor."""

    key: str
    title: str
    body: Markup


def document(title: str, header: Child, sections: Sequence[Section], footer: Child) -> str:
    """Assemble a complete HTML page.

    Args:
        title: of the browser's tab.
        header: what stands above the first section.
        sections: in reading order; the navigation lists them.
        footer: what stands below the last one.

    Returns:
        HTML with style and script inside. The content security policy admits this script by its hash and no
        other, and no connection at all.
    """
    script, style = _asset("page.js"), _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", style),
    )
    body = element(
        "body",
        element("header", header),
        element("nav", [element("a", part.title, href=f"#{part.key}") for part in sections], aria_label="Sections"),
        element("main", [_section(part) for part in sections]),
        element("footer", footer),
        element("div", id="tip", role="status", hidden=""),
        element("script", script),
    )
    return join(verbatim("<!doctype html>\n"), element("html", head, body, lang="en"), "\n")


def _section(part: Section) -> Markup:
    return element("section", element("h2", part.title), part.body, id=part.key)


def _asset(name: str) -> Markup:
    return verbatim(resources.files("bertpress.report").joinpath(name).read_text(encoding="utf-8"))

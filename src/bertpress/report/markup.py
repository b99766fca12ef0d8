"""HTML and SVG elements: text is escaped and tags are balanced by construction.

Only ``element``, ``join`` and ``verbatim`` make ``Markup``; a plain string is always text, so nothing that a
user wrote (a label, a name, a recipe) can become a tag or an attribute.
"""

import html
from collections.abc import Iterable
from typing import TypeAlias

VOID = frozenset({"meta", "link", "br", "hr", "wbr"})

Child: TypeAlias = "str | Iterable[Child] | None"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(text: str) -> str:
    """Escape for text and attributes; what UTF-8 or HTML cannot carry becomes a replacement character."""
    sound = text.encode("utf-8", "replace").decode("utf-8")
    return html.escape("".join("\ufffd" if ord(c) < 32 and c not in "\t\n" else c for c in sound), quote=True)


def verbatim(source: str) -> Markup:
    """Trust a source of our own (a stylesheet, the script) as it stands."""
    return Markup(source)


def join(*children: Child) -> Markup:
    """Concatenate children, escaping whatever is not markup; None leaves nothing."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(escape(child))
        elif child is not None:
            parts.append(join(*child))
    return Markup("".join(parts))


def element(tag: str, *children: Child, **attributes: str | float | None) -> Markup:
    """An element such as ``element("p", "a < b", class_="note")``.

    Args:
        tag: its name.
        children: text (escaped), markup, None (nothing), or iterables of those.
        attributes: underscores become hyphens and a trailing one goes (``class_``, ``text_anchor``);
            numbers keep two decimals; None leaves the attribute out.

    Returns:
        ``<p class="note">a &lt; b</p>``
    """
    shown = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in VOID:
        return Markup(f"<{tag}{shown}>")
    return Markup(f"<{tag}{shown}>{join(*children)}</{tag}>")


def _attribute(value: str | float) -> str:
    if isinstance(value, str):
        return escape(value)
    return f"{value:.2f}".rstrip("0").rstrip(".")

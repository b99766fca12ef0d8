import pytest

from bertpress.report.markup import Markup, element, join, verbatim


def test_text_is_escaped_and_markup_is_not():
    assert element("p", "a < b & c", element("b", "x")) == "<p>a &lt; b &amp; c<b>x</b></p>"


def test_attributes_are_escaped_and_named():
    made = element("text", "1", text_anchor="end", class_='a"b', x=1.0, y=2.346, role=None)
    assert made == '<text text-anchor="end" class="a&quot;b" x="1" y="2.35">1</text>'


def test_void_elements_have_no_end():
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_children_may_be_nested_or_missing():
    assert join("<", None, ["a", [verbatim("<i></i>")], ()]) == "&lt;a<i></i>"


def test_adding_text_to_markup_loses_the_trust():
    assert not isinstance(Markup("<b></b>") + "<script>", Markup)


@pytest.mark.parametrize("bad", ["\x00", "\x1b", "\ud800"])
def test_what_html_cannot_carry_is_replaced(bad):
    assert join(f"a{bad}b").encode() in ("a\ufffdb".encode(), b"a?b")

"""The pages as a browser's parser sees them: balanced, self-contained, complete, and deaf to hostile names."""

import base64
import copy
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml

from bertpress.report import profile_page, run_page
from bertpress.report.markup import VOID
from bertpress.report.run import flattened

HOSTILE = '"><script>alert(1)</script><img src=http://evil.example onerror=alert(1)>'


class Page(HTMLParser):
    """Checks the balance of the tags while it reads; keeps text and attributes."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute is repeated in <{tag}>"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words).replace("\u00a0", " ")


def test_the_run_page_is_well_formed_and_complete(results):
    page = Page(run_page(results))
    headings = [
        "Before and after", "Engines", "Trade-offs", "Breakdown", "Layers", "Latency", "Training",
        "Environment", "Recipe and command",
    ]  # fmt: skip
    assert [words for words in headings if words not in page.text] == []
    for words in (
        "6.2× smaller, 9.1× faster, −0.4 points [−1.2, +0.4]", "sst2", "quick", "SYNTHETIC",
        "22.71 M", "10.80 M", "14.41 M", "90.9 MB", "14.7 MB", "2.66 MB", "14.6 MB", "21 %", "3.4 %", "341 M",
        "8.97 ms", "11.4 ms", "0.869 ms", "1,980/s", "612 MB", "91.3 [89.4, 93.1]", "90.9 [88.9, 92.7]",
        "91.6 [89.6, 93.4]", "9.1× [8.9, 9.3]", "onnxruntime", "4.9× [4.8, 5.0]", "99.5 %", "32 tokens",
        "distill/hidden", "Learning rate", "3 min 32 s", "140,800",
        "cpu.name", "Example CPU @ 2.60GHz", "versions.torch", "2.13.0", "16.0 GB",
        results["command"], "temperature: 2.0",
    ):  # fmt: skip
        assert words in page.text, words
    assert "not measured" not in page.text


def test_the_recipe_is_yaml_that_reads_back(results):
    source = run_page(results)
    shown = re.findall(r"<pre>(.*?)</pre>", source, re.DOTALL)
    assert yaml.safe_load(shown[-1]) == results["recipe"]


def test_nothing_is_loaded_from_anywhere(results, profile):
    for source in (run_page(results), profile_page(profile)):
        page = Page(source)
        for tag, attributes in page.tags:
            assert tag not in {"img", "iframe", "object", "embed", "base", "form"}
            for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                assert (attributes.get(name) or "#")[:1] == "#" or attributes[name] == "data:,"
        assert "://" not in source
        assert "url(" not in source
        assert "@import" not in source
        assert len(source) < 400_000


def test_the_policy_admits_this_script_alone(results):
    page = Page(run_page(results))
    (policy,) = (a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256("".join(page.scripts).encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy
    assert sum(tag == "script" for tag, _ in page.tags) == 1


def test_the_page_is_a_pure_function(results):
    before = copy.deepcopy(results)
    assert run_page(results) == run_page(results)
    assert results == before


def replaced(source: Any, hostile: str) -> Any:
    """Every text and every key that a user could have chosen becomes hostile."""
    if isinstance(source, dict):
        changed = {key: replaced(found, hostile) for key, found in source.items()}
        return {**changed, hostile: hostile}
    if isinstance(source, list):
        return [replaced(found, hostile) for found in source]
    return hostile if isinstance(source, str) else source


def test_hostile_text_stays_text(packed, profile):
    for source in (run_page(replaced(packed, HOSTILE)), profile_page(replaced(profile, HOSTILE))):
        page = Page(source)
        assert HOSTILE in page.text
        assert sum(tag == "script" for tag, _ in page.tags) == 1
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
        assert "img" not in {tag for tag, _ in page.tags}


def test_a_run_without_results_says_so():
    page = Page(run_page({}))
    assert page.text.count("not measured") > 30
    assert "Layers of the artifact: not measured." in page.text
    assert "Stages: not measured." in page.text


def paths(source: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every place in a nested structure; of a list only the first two places."""
    if path:
        yield path
    if isinstance(source, dict):
        for key, found in source.items():
            yield from paths(found, (*path, key))
    elif isinstance(source, list):
        for index, found in enumerate(source[:2]):
            yield from paths(found, (*path, index))


def with_value(source: Any, path: tuple, new: Any) -> Any:
    """A copy that differs in one place and shares the rest."""
    copied = source.copy()
    copied[path[0]] = with_value(source[path[0]], path[1:], new) if path[1:] else new
    return copied


ODD = [None, "x", -1, 0, 1e99, 1e300, float("nan"), [], {}, [None], {"a": None}, True, 10**400, 1e-320, 2**31]


@pytest.mark.parametrize("page", [run_page, profile_page])
@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_any_key_may_be_missing_or_odd(page, stride, packed, profile):
    source = shortened(packed if page is run_page else profile)
    for place, path in enumerate(list(paths(source))[::stride]):
        Page(page(with_value(source, path, ODD[place % len(ODD)])))


def test_what_is_nearer_to_zero_than_any_measurement_is_zero(packed):
    """A logarithmic axis down to it would have decades that no float has."""
    source = shortened(packed)
    for path in paths(source):
        if isinstance(path[-1], int) and path[-2] in {"samples", "log"}:
            source = with_value(source, path, 1e-320 if path[-2] == "samples" else {"step": 1, "loss": 1e-320})
    for key in ("latency_ms", "weight_bytes"):
        source = with_value(source, ("artifact", key), {"median": 1e-320} if key == "latency_ms" else 1e-320)
    Page(run_page(source))


def test_a_layer_may_say_that_it_came_from_any_depth(packed):
    """A row is drawn for each layer there is, and none for those between."""
    source = with_value(shortened(packed), ("artifact", "layers", 1, "source"), 10**12)
    assert str(10**12 + 1) in run_page(source)


def shortened(source: Any) -> Any:
    """Keep few samples and log records, so that hundreds of pages take a moment."""
    if isinstance(source, dict):
        return {key: shortened(found) for key, found in source.items()}
    return [shortened(found) for found in source[:6]] if isinstance(source, list) else source


def test_the_profile_page_has_four_panels_for_each_length(profile):
    page = Page(profile_page(profile))
    for words in (
        "Where BERT-base spends its size and its time", "256 tokens", "128 tokens", "109.48 M", "23.84 M", "22 %",
        "Unattributed", "7.40 ms", "Whole model", "weights not counted",
    ):  # fmt: skip
        assert words in page.text, words
    assert sum(a.get("class") == "panel" for _, a in page.tags) == 8
    assert "not measured" not in page.text


def test_a_profile_without_lengths_is_one_section(profile):
    del profile["lengths"], profile["unattributed"]
    page = Page(profile_page(profile))
    assert sum(a.get("class") == "panel" for _, a in page.tags) == 4
    assert "Unattributed" not in page.text


def test_environments_are_flattened():
    facts = {"cpu": {"name": "X", "features": ["a", "b"]}, "memory_bytes": 16_000_000_000, "fast": True, "gpu": None}
    assert dict(flattened(facts)) == {
        "cpu.name": "X", "cpu.features": "a, b", "memory_bytes": "16.0 GB", "fast": "yes", "gpu": "none",
    }  # fmt: skip

"""The section on storage: every weight in its place, notes of methods, and nothing where nothing is packed."""

import re

import pytest

from bertpress.report import run_page, storage
from bertpress.report.charts import heat


def entry(name, bits, shape=(4, 4), kinds=("uniform", "bits")):
    return {"name": name, "shape": list(shape), "bits": bits, "kinds": list(kinds)}


def section(page):
    found = re.search(r'<section id="storage">.*?</section>', page, re.DOTALL)
    return found and found[0].replace("\u00a0", " ")


def shown(stored, *stages):
    return section(run_page({"artifact": {"storage": stored}, "stages": list(stages)}))


def test_a_packed_run_shows_its_bits(packed):
    page = section(run_page(packed))
    for words in (
        "Over all matrices and tables: 3.72 bits a weight",
        "layer 1, query: 4.062 bits a weight (uniform + bits), 384 by",
        "layer 6, FFN outer: 2.052 bits a weight (codebook + bits), 384 by 1,536", ">32.0<", "word: 4.25",
        "layer 1: Omega 182, 4 bits, top eigenvalues from 113 to 192 in 4 samples", ">2 bits<",
        "Layer 1, query", "Layer 3, FFN inner", " 8 values, 111 outliers (0.1 %)", "centroid 0.0081",
    ):  # fmt: skip
        assert words in page, words
    assert page.count('class="heat"') == 6 * 6 + 4
    assert page.count('class="centroid"') == 3 * 8
    assert page.count('class="limit"') == 3 * 2
    assert "not measured" not in page


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("encoder.layers.0.attention.query.weight", (0, "query")),
        ("encoder.layers.11.attention.output.weight", (11, "output")),
        ("encoder.layers.11.attention.output.down.weight", (11, "output")),
        ("encoder.layers.3.ffn.2.inner.weight", (3, "FFN inner")),
        ("encoder.layers.3.narrow_query.linear.weight", (3, "bottleneck")),
        ("encoder.layers.3.widen.linear.weight", (3, "bottleneck")),
        ("encoder.embeddings.position.weight", (None, "position")),
        ("encoder.embeddings.projection.weight", (None, "other")),
        ("encoder.relative.weight", (None, "other")),
        ("head.classifier.weight", (None, "head")),
        ("encoder.layers.9999999999.attention.query.weight", (None, "other")),
        ("encoder.layers.0.attention.query.weight\n", (None, "other")),
        ("", (None, "other")),
    ],
)
def test_every_name_has_its_place(name, where):
    assert storage.place(name) == where


def test_nothing_packed_leaves_the_section_out(results):
    assert section(run_page(results)) is None
    assert section(run_page({})) is None
    assert shown([entry("head.dense.weight", 32.0, kinds=["dense"])]) is None
    assert shown([entry("head.dense.weight", 16.0, kinds=["dense"])]) is not None  # 16-bit floats are packed
    assert shown([entry("head.dense.weight", 32.1)]) is not None
    assert shown([], {"name": "s", "notes": {"bits": {}, "gobo": []}}) is None


def test_stacked_networks_fold_into_means_by_their_size():
    stored = [
        entry("encoder.layers.0.ffn.0.inner.weight", 2.0, (3, 4)),
        entry("encoder.layers.0.ffn.1.inner.weight", 8.0, (1, 4), ["sign"]),
        entry("encoder.layers.0.ffn.0.outer.weight", 8.0, (1, 4)),
    ]
    page = shown(stored)
    assert "layer 1, FFN inner: 3.5 bits a weight (uniform + bits, sign), mean of 2 matrices" in page.replace(
        "3.500", "3.5"
    )
    assert ">3.50<" in page
    assert page.count('class="heat"') == 2
    assert page.count('class="empty"') == 4 + 4  # four matrices of the layer, three tables and the head
    assert "Over all matrices and tables: 4.40 bits a weight" in page  # (12 * 2 + 4 * 8 + 4 * 8) / 20


def test_only_layers_that_are_stored_get_a_row():
    page = shown([entry(f"encoder.layers.{depth}.attention.key.weight", 4.0) for depth in (0, 9998)])
    assert page.count("<rect") == 2 * 6 + 4
    assert ">9999<" in page


def test_weights_without_bits_are_left_out():
    stored = [entry("head.dense.weight", bits) for bits in (None, "x", float("nan"), -1)]
    assert storage.weights({"artifact": {"storage": [*stored, None, entry("head.dense.weight", 3.0)]}}) == [
        ("head.dense.weight", [4, 4], 3.0, "uniform + bits", 1.0)
    ]


def test_notes_without_storage_say_so():
    page = shown([], {"name": "few <bits>", "notes": {"bits": {"0": {"omega": 2.5, "bits": 4}}}})
    assert "Bits of each weight: not measured." in page
    assert "layer 1: Omega 2.50, 4 bits<" in page
    assert "few &lt;bits&gt;" in page


def test_layers_stand_in_the_order_of_their_numbers():
    notes = {str(depth): {"omega": 1.0 + depth, "bits": 2} for depth in (10, 2, 0)} | {"<x>": {"omega": 1.5}}
    page = shown([], {"notes": {"bits": notes}})
    assert re.findall(r"layer (\S+): Omega", page) == ["1", "3", "11", "&lt;x&gt;"]


def test_groups_of_fixed_point_show_their_rise_and_their_bits():
    groups = {
        "embeddings": {"rise": 0.002, "bits": 3},
        "layers.0.attention_in": {"rise": 0.25, "bits": 6},
        "layers.11.ffn": {"rise": -0.01, "bits": 3},
        "<x>": {"rise": None, "bits": 4},
    }
    page = shown([], {"name": "retrain", "notes": {"groups": groups}})
    assert "1, attention in: rise of 0.250, 6 bits<" in page
    assert re.findall(r"([^<>]+): rise of", page) == ["embeddings", "1, attention in", "12, ffn"]
    assert (page.count('class="amount"'), page.count(" bits</text>")) == (3, 4)
    widths = [float(width) for width in re.findall(r'width="([\d.]+)"[^>]*class="amount"', page)]
    assert widths[1] == max(widths)
    assert widths[2] / widths[1] == pytest.approx(0.01 / 0.25, abs=0.01)  # falls reach to the other side
    assert ">&lt;x&gt;<" in page
    assert "when this group of weights alone is quantized" in page
    assert 'class="amount"' not in (shown([], {"notes": {"groups": {"head": {"bits": 4}}}}) or "")


@pytest.mark.parametrize("omegas", [[0.0, 0.0], [-1.0, 5.0], [1e-9, 1e9], [3.0], [None, 2.0]])
def test_any_measures_can_be_drawn(omegas):
    notes = {str(depth): {"omega": omega, "bits": 3, "eigenvalues": []} for depth, omega in enumerate(omegas)}
    page = shown([], {"notes": {"bits": notes}})
    assert page.count('class="amount"') == sum(omega is not None for omega in omegas)
    assert page.count(">3 bits<") == len(omegas)


def test_the_most_sensitive_layers_have_longer_bars(packed):
    widths = re.findall(r'width="([\d.]+)"[^>]*class="amount"', section(run_page(packed)))
    assert len(set(widths)) == 6
    assert [float(width) for width in widths] == sorted(map(float, widths), reverse=True)


def test_a_note_without_any_measure_draws_nothing():
    page = shown([entry("head.dense.weight", 4.0)], {"notes": {"bits": {"0": {"bits": 4}}}})
    assert 'class="amount"' not in page


@pytest.mark.parametrize(
    "histogram",
    [None, {}, {"start": 0, "end": 1, "counts": []}, {"start": 1, "end": 1, "counts": [3]}, {"start": 2, "end": 1}],
)
def test_a_dictionary_without_a_histogram_says_so(histogram):
    page = shown([], {"notes": {"gobo": [{"name": "<w>", "histogram": histogram, "centroids": [1, 2]}]}})
    assert "Histogram: not measured." in page
    assert "&lt;w&gt;" in page
    assert "2 values, outliers not measured" in page


def test_a_histogram_stands_where_its_values_are():
    picture = {"name": "w", "histogram": {"start": -1.0, "end": 1.0, "counts": [1, 0, 7]}, "centroids": [-1.0, 1.0],
               "low": None, "high": None, "outliers": 0}  # fmt: skip
    page = shown([], {"notes": {"gobo": [picture]}})
    path = re.search(r'd="([^"]*)" class="density"', page)[1]
    places = [tuple(map(float, pair.split())) for pair in re.findall(r"[\d.]+ [\d.]+", path)]
    left, right = (float(x) for x in re.findall(r'<line x1="([\d.]+)"[^>]*class="centroid"', page))
    assert (places[0][0], places[-1][0]) == (pytest.approx(left, abs=0.1), pytest.approx(right, abs=0.1))
    floor, (one, none, seven) = places[0][1], [places[index][1] for index in (1, 3, 5)]
    assert none == floor
    assert (floor - seven) == pytest.approx(3 * (floor - one), abs=0.2)  # log(1 + 7) = 3 log(1 + 1)
    assert 'class="limit"' not in page
    assert "0 outliers (0 %)" in page


def test_more_bits_are_darker():
    shades = [heat.shade(bits) for bits in (0, 1, 2, 8, 32, 1e99)]
    assert shades == sorted(shades)
    assert (shades[0], shades[1], shades[-1]) == (heat.PALEST, heat.PALEST, heat.DARKEST)


def left(name, kept, shape=(4, 4)):
    return {**entry(name, 9.0, shape, ["bitmap"]), "kept": kept}


def test_what_pruning_left_of_each_matrix():
    stored = [
        left("encoder.layers.0.attention.query.weight", 0.25),
        left("encoder.layers.1.ffn.0.inner.weight", 0.5, (3, 4)),
        left("encoder.layers.1.ffn.1.inner.weight", 0.1, (1, 4)),
        entry("head.dense.weight", 32.0, kinds=["dense"]),
    ]
    page = shown(stored)
    for words in (
        "layer 1, query: 25 % of the weights are not zero, 4 by 4", ">25 %<",
        "layer 2, FFN inner: 40 % of the weights are not zero, mean of 2 matrices", ">40 %<",
        "head: 100 % of the weights are not zero", ">100 %<",
        "bits a weight; 55 % of the weights are not zero.",  # (4 + 6 + 0.4 + 16) / 48
    ):  # fmt: skip
        assert words in page, words
    assert page.count('aria-label="Weights that are not zero"') == 1
    assert page.count('class="heat"') == 2 * 3
    opacity = dict(
        zip(re.findall(r">(\d+ %)</text>", page), re.findall(r'fill-opacity="([\d.]+)"', page)[3:], strict=True)
    )
    assert float(opacity["25 %"]) < float(opacity["40 %"]) < float(opacity["100 %"]) == heat.DARKEST


def test_without_zeros_nothing_is_said_of_them(packed):
    page = section(run_page(packed))
    assert "not zero" not in page


@pytest.mark.parametrize("kept", [None, "x", float("nan"), 7.0])
def test_a_share_that_makes_no_sense_counts_as_all(kept):
    (weight,) = storage.weights({"artifact": {"storage": [left("head.dense.weight", kept)]}})
    assert weight.kept == 1

"""The table of latencies: additive, each entry measured once, larger sub-units take longer on a real clock."""

import pytest
from uneven_models import mixed

from bertpress.encoder.blueprint import uniform
from bertpress.encoder.subnetworks import Part, subnetwork
from bertpress.methods import latency
from bertpress.methods.latency import Latencies, bare, of_graph, on_this_machine


def test_predictions_are_sums_of_entries_measured_once():
    asked = []

    def timer(blueprint, part, unit):
        asked.append((part.layer, unit))
        return 10.0 * part.layer + (part.heads if unit == "attention" else part.ffn[0] / 100)

    latencies = Latencies(mixed(shapes=((12, 40), (12, 24))).blueprint, timer)
    parts = (Part(0, 3, (20,)), Part(1, 0, (24,)))
    assert latencies(parts) == (3 + 0.2) + (10 + 0 + 10 + 0.24)
    assert len(asked) == 4
    assert latencies((Part(0, 3, (24,)),)) == 3 + 0.24  # of which the attention was known
    assert len(asked) == 5
    assert latencies.whole == 12 + 0.4 + 10 + 12 + 10 + 0.24
    rows = latencies.rows()
    assert {"layer": 0, "unit": "ffn", "size": [20], "ms": 0.2} in rows
    assert sum(row["ms"] for row in rows) == pytest.approx(sum(latencies.table.values()))


def test_the_clock_knows_large_from_small_and_is_asked_once_a_shape():
    shape = uniform(layers=2, hidden_size=256, heads=8, ffn=2048, vocabulary=50)
    timer = on_this_machine(64)
    for unit in ("attention", "ffn"):
        whole, little = (timer(shape, Part(0, heads, (ffn,)), unit) for heads, ffn in ((8, 2048), (1, 32)))
        assert 0 < little < whole
        assert timer(shape, Part(1, 8, (2048,)), unit) == whole  # the other layer has the same shape
    assert timer(shape, Part(0, 8, (1,)), "attention") == timer(shape, Part(0, 8, (7,)), "attention")
    skipped = timer(shape, Part(0, 0, (0,)), "ffn")
    assert 0 < skipped < timer(shape, Part(0, 0, (2048,)), "ffn")
    assert Latencies(shape, timer).whole == Latencies(shape, timer)(subnetwork(shape))


@pytest.mark.slow
def test_integers_on_openvino_are_timed_too():
    pytest.importorskip("openvino")
    shape = uniform(layers=2, hidden_size=256, heads=8, ffn=2048, vocabulary=50)
    timer = on_this_machine(64, "openvino")
    whole, little = (timer(shape, Part(0, 8, (width,)), "ffn") for width in (2048, 32))
    assert 0 <= little < whole
    assert timer(shape, Part(1, 3, (2048,)), "ffn") == whole  # asked once: heads have no part in it


def test_texts_on_openvino_change_their_length(monkeypatch):
    pytest.importorskip("openvino")
    seen = []

    class Engine:
        def logits(self, arrays):
            seen.append({name: array.shape for name, array in arrays.items()})

    monkeypatch.setattr(latency, "load_engine", lambda *_: Engine())
    of_graph(bare(uniform(layers=1, hidden_size=8, heads=2, ffn=24, vocabulary=50)), 5)
    assert [shapes["input_ids"] for shapes in seen[:4]] == [(1, 5), (1, 4), (1, 5), (1, 4)]
    assert all(len(set(shapes.values())) == 1 for shapes in seen)


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        ([9.0] * 3 + [1.0, 1.1, 1.2] * 5, 1.1),  # the median, warm
        ([9.0] * 3 + [1.0] + [5.0] * 14 + [4.0] * 30 + [0.9] + [6.0] * 29, 0.9),  # a busy machine: the least
    ],
)
def test_a_busy_machine_adds_and_is_waited_for(monkeypatch, durations, expected):
    now, left = [0.0], iter(durations)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])

    def run():
        now[0] += next(left) / 1000

    assert latency._typical_of(run) == pytest.approx(expected)
    assert next(left, None) is None


def test_a_table_is_read_again(tmp_path):
    shape, place = uniform(layers=1, hidden_size=16, heads=2, ffn=8, vocabulary=50), tmp_path / "deep/table.json"
    first = Latencies(shape, lambda *_: 1 / 3, place)
    assert first.whole == 2 / 3
    first.keep()
    assert Latencies(shape, lambda *_: 7.0, place).whole == 2 / 3

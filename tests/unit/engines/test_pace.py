"""A mean time in place of a speed: which point of the curve keeps it, and the same answers as with that speed."""

import numpy as np
import pytest
from exit_models import mixed_speed, texts, tiny

from bertpress import artifact
from bertpress.artifact import manifest
from bertpress.artifact.save import update
from bertpress.encoder.surgery import keep_layers
from bertpress.engines import load_engine, pace
from bertpress.engines.pace import speed_within, times_to_exits, understood
from bertpress.engines.staged import Staged
from bertpress.errors import EngineError

CURVE = [
    {"speed": 0.0, "drop": 0.0, "left": [0, 0, 10]},  # 6 ms
    {"speed": 0.1, "drop": -0.1, "left": [0, 5, 5]},  # 4.5 ms, and better
    {"speed": 0.2, "drop": 0.4, "left": [5, 5, 0]},  # 2 ms
    {"speed": 0.3, "drop": 0.4, "left": [8, 2, 0]},  # 1.4 ms
    {"speed": 1.0, "drop": 9.0, "left": [10, 0, 0]},  # 1 ms
]
TIMES = [1.0, 3.0, 6.0]


@pytest.mark.parametrize(
    ("milliseconds", "speed"), [(9.0, 0.1), (4.5, 0.1), (4.4, 0.2), (2.0, 0.2), (1.99, 0.3), (1.0, 1.0)]
)
def test_what_loses_least_within_the_time(milliseconds, speed):
    assert speed_within(milliseconds, CURVE, TIMES) == speed


def test_less_than_any_speed_takes():
    with pytest.raises(EngineError, match=r"speed=0.5ms: must be at least 1ms here, tokenizing not counted"):
        speed_within(0.5, CURVE, TIMES)


def test_what_can_be_said():
    assert [understood(each) for each in (0, 1.0, "0.25", " 2 ms", "2.5ms")] == [
        (0, None), (1.0, None), (0.25, None), (None, 2.0), (None, 2.5)
    ]  # fmt: skip
    for wrong in ("fast", "2s", 1.5, "-1ms", float("nan")):
        with pytest.raises(EngineError, match=f"speed={wrong} must be in .0, 1., or a mean time such as 1.5ms"):
            understood(wrong)


class Slow:
    """A part that takes so many ticks of a clock of its own."""

    inputs = ("input_ids", "attention_mask")

    def __init__(self, clock, ticks, last=False):
        self.clock, self.ticks, self.last, self.asked = clock, ticks, last, []

    def run(self, arrays):
        self.asked.append({name: array.shape for name, array in arrays.items()})
        self.clock[0] += self.ticks / 1000
        logits = np.zeros((1, 2))
        return [logits] if self.last else [logits, np.zeros((*arrays["attention_mask"].shape, 4))]


def test_times_add_up_from_part_to_part(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: clock[0])
    parts = [Slow(clock, 2), Slow(clock, 3), Slow(clock, 5, last=True)]
    assert times_to_exits(parts, [7, 6]) == pytest.approx([2, 5, 10])
    assert [each["attention_mask"][1] for each in parts[2].asked[:3]] == [7, 6, 7]
    assert parts[1].asked[0] == {pace.STATES: (1, 7, 4), "attention_mask": (1, 7)}


def told(made, exits):
    """The artifact's folder, whose manifest says this of its exits."""
    update(made.path, manifest.read(made.path).replace(exits=exits), {})
    return made.path


@pytest.fixture
def made(tmp_path):
    pressed = artifact.save(tiny(kind="pooled"), None, None, tmp_path / "made")
    pressed.export("openvino")
    return pressed


@pytest.fixture
def folder(made):
    model = made.model
    speed, last = mixed_speed(model, texts(rows=12)), len(model.blueprint.exits) - 1
    points = [{"speed": 0.0, "drop": 0.0, "left": [0] * last + [12]},
              {"speed": speed, "drop": 0.5, "left": [12] + [0] * last}]  # fmt: skip
    return told(made, {"speed": 0.0, "tokens": 9, "curve": points}), speed


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_an_engine_runs_at_the_speed_that_keeps_the_time(name, folder, monkeypatch):
    place, speed = folder
    monkeypatch.setattr(pace, "times_to_exits", lambda parts, lengths: [float(n) for n in range(1, len(parts) + 1)])
    fast, slow, same = (load_engine(name, place, 1, wanted) for wanted in ("1ms", "50ms", speed))
    assert isinstance(fast, Staged)
    assert fast.speed == speed
    assert not isinstance(slow, Staged)  # all layers in one graph
    assert np.array_equal(fast.logits(texts(rows=12)), same.logits(texts(rows=12)))


def test_the_time_of_a_text_as_it_is_padded(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(pace, "times_to_exits", lambda parts, lengths: asked.append(lengths) or [1.0] * len(parts))
    for lengths in ((), (4, 12, 16), (4,)):
        load_engine("openvino", folder[0], 1, "2ms", lengths)
    assert asked == [[9, 8], [12], [9, 8]]


def test_real_times_are_met(folder):
    place, _ = folder
    assert load_engine("openvino", place, 1, "1000ms").name != "staged"
    with pytest.raises(EngineError, match=r"speed=1e-06ms: must be at least 0.* here"):
        load_engine("openvino", place, 1, "0.000001ms")


def test_no_curve_and_no_exits(made, tmp_path):
    place = told(made, {"speed": 0.2, "curve": [{"speed": 0.0, "drop": 0}]})
    with pytest.raises(EngineError, match=r"no curve that says where texts leave, so speed=2ms means nothing"):
        load_engine("openvino", place, 1, "2ms")
    bare = artifact.save(keep_layers(made.model, [0]), None, None, tmp_path / "bare").path
    with pytest.raises(EngineError, match=r"has no early exits, so speed=2ms means nothing"):
        load_engine("torch", bare, 1, "2ms")

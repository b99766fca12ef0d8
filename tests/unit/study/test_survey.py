"""Every statement of the survey on made-up runs that speak for it, and on runs that speak against it."""

import pytest
from studied import entry, layer, repeated, stage

from bertpress.study.evidence import Evidence, Run
from bertpress.study.survey import STATEMENTS, weigh

SLOW, EVEN, FAST = [0.9, 0.95, 1.0, 0.98, 0.93, 0.97] * 2, [1.0, 1.02, 0.99, 1.01, 1.03, 0.98] * 2, [3.0, 3.1, 2.9] * 4
THREE, UNEVEN = [layer()] * 3, [layer(12), layer(4), *[layer()] * 4]
NARROW, NARROWER = [layer(6)] * 6, [layer(8, 1024)] * 6
LSTM, CELL = [layer(0, 0, mixer="lstm")] * 2, [layer(0, 0, mixer="cell")] * 2
STUDENT = "student/transformer"
BITS = {"encoder": {"quantize/uniform": {"bits": 4, "embedding_bits": 32}},
        "embeddings": {"quantize/uniform": {"bits": 32, "embedding_bits": 4}}}  # fmt: skip


def drops(strategy):
    return {"prune/layers": {"strategy": strategy}}


def found(text, runs=(), profiles=None, vocabularies=None):
    """The verdict on the one statement that has these words."""
    evidence = Evidence([Run(each) for each in runs], profiles or {}, vocabularies or {})
    (claim, test), *others = [each for each in STATEMENTS if text in each[0].text]
    assert not others
    return test(claim, evidence)


PAIRED = [
    # words of the claim, the two lines: methods, and what else the runs have in common with their kind
    ("bear fewer bits", (BITS["encoder"],), {}, (BITS["embeddings"],), {}),
    ("in harmony", ("prune/schubert",), {"layers": NARROWER, "hidden": 256}, ("prune/heads",), {"layers": NARROW}),
    ("Bottom layers", (drops("top"),), {"layers": THREE}, (drops("bottom"),), {"layers": THREE}),
    ("values included", (STUDENT, "distill/logits", "distill/hidden", "distill/attention"), {"layers": THREE},
     (STUDENT, "distill/logits", "distill/hidden"), {"layers": THREE}),
    ("Combining targets", (STUDENT, "distill/logits", "distill/hidden"), {}, (STUDENT, "distill/hidden"), {}),
    ("Distillation on text",
     (), {"stages": [stage("distill/hidden", data="unlabelled"), stage("distill/logits")], "layers": THREE},
     ("distill/logits",), {"layers": THREE}),
    ("Without attention", ("prune/snip",), {"layers": THREE}, (STUDENT, "distill/hidden"), {"layers": THREE}),
    ("With attention", (STUDENT, "distill/attention"), {"layers": THREE}, ("prune/heads",), {"layers": NARROW}),
    ("Pruning with distillation", ("prune/dynabert", "distill/logits"), {}, ("prune/heads",), {}),
    ("Methods together", ("prune/heads", "quantize/int8"), {}, ("prune/heads",), {}),
    ("Exits that follow", ("exit/fastbert",), {}, ("exit/deebert",), {}),
    ("each layer by itself", ("prune/schubert",), {"layers": UNEVEN}, ("prune/heads",), {"layers": NARROW}),
    ("A large model", ("prune/heads",), {"layers": NARROW}, (STUDENT,), {"layers": THREE}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "better", "with_it", "worse", "with_that"), PAIRED, ids=[row[0] for row in PAIRED])
def test_pairs_decide(text, better, with_it, worse, with_that):
    weaker = repeated("weaker", *worse, score=85.0, **with_that)
    holds = found(text, [*repeated("stronger", *better, score=87.0, **with_it), *weaker])
    assert (holds.verdict, holds.pairs, holds.value) == ("holds", 9, pytest.approx(2.0))
    assert holds.evidence == ("stronger against weaker",)
    against = found(text, [*repeated("stronger", *better, score=84.0, **with_it), *weaker])
    assert (against.verdict, against.value) == ("does not hold here", pytest.approx(-1.0))
    assert found(text, weaker).verdict == "not enough runs"
    few = [*repeated("stronger", *better, score=87.0, **with_it)[:4], *weaker]
    assert found(text, few).verdict == "not enough runs"


@pytest.mark.parametrize("shape", [{"layers": NARROWER}, {"layers": NARROW, "hidden": 256}, {"hidden": 256}])
def test_two_dimensions_are_not_all_in_harmony(shape):
    runs = [*repeated("two", "prune/snip", **shape), *repeated("one", "prune/heads", score=85.0, layers=NARROW)]
    assert found("in harmony", runs).pairs == 0


@pytest.mark.parametrize("text", ["With attention", "Pruning with distillation", "Methods together"])
def test_runs_of_other_sizes_are_not_compared(text):
    better, with_it, worse, with_that = next(row[1:] for row in PAIRED if row[0] == text)
    weaker = repeated("weaker", *worse, score=85.0, size=60_000, **with_that)
    assert found(text, [*repeated("stronger", *better, score=87.0, **with_it), *weaker]).pairs == 0


def test_a_run_is_set_against_the_best_comparable_one():
    runs = [*repeated("good", "prune/heads", score=86.5), *repeated("bad", "prune/heads", score=80.0)]
    runs += repeated("both", "prune/heads", "quantize/int8", score=87.0)
    weighed = found("Methods together", runs)
    assert (weighed.value, weighed.evidence) == (pytest.approx(0.5), ("both against good",))


def test_quantizing_a_student_may_cost_a_point():
    text, methods = "Quantizing a distilled", (STUDENT, "distill/logits")
    floats = repeated("float", *methods, score=85.0)
    for score, verdict in ((84.5, "holds"), (83.5, "does not hold here")):
        packed = repeated("packed", *methods, "quantize/int8", score=score, size=30_000)
        assert found(text, [*floats, *packed]).verdict == verdict


KEPT = [
    ("15 %", ("quantize/gobo",), {"size": 14_000}, 90.6),
    ("10 %", ("quantize/gobo",), {"size": 10_000}, 90.6),
    ("can improve", ("prune/rpp",), {}, 92.0),
    ("One or two heads", ("prune/heads",), {"layers": [layer(2)] * 6}, 90.6),
    ("Local attention", ("attention/deformer",), {}, 90.6),
]


def level(*arguments, score, **more):
    """Six runs whose drops differ a little, whatever the task."""
    return [
        entry(*arguments, score=score + 0.1 * (seed % 3), task=task, seed=seed, **more)
        for task in ("sst2", "mrpc")
        for seed in range(3)
    ]


@pytest.mark.parametrize(("text", "use", "more", "good"), KEPT, ids=[row[0] for row in KEPT])
def test_drops_decide(text, use, more, good):
    assert found(text, level("line", *use, score=good, **more)).verdict == "holds"
    assert found(text, level("line", *use, score=88.0, **more)).verdict == "does not hold here"
    best = found(text, [*level("bad", *use, score=80.0, **more), *level("line", *use, score=good, **more)])
    assert (best.verdict, best.evidence) == ("holds", ("line",))
    assert found(text, level("line", *use, score=good, **more)[:4]).verdict == "not enough runs"
    assert found(text, level("line", "distill/logits", score=good)).verdict == "not enough runs"


def test_sizes_above_the_bound_do_not_count():
    assert found("15 %", level("line", "quantize/gobo", score=91.0, size=16_000)).verdict == "not enough runs"


@pytest.mark.parametrize(
    ("text", "use", "more"),
    [
        ("Zeros here and there", ("prune/magnitude",), {}),
        ("without integer kernels", ("quantize/gobo",), {}),
        ("Low rank", ("factorize/svd",), {"size": 60_000}),
    ],
)
def test_clocks_decide_what_gives_no_speed(text, use, more):
    assert found(text, [entry("line", *use, speedups=EVEN, **more)]).verdict == "holds"
    assert found(text, [entry("line", *use, speedups=FAST, **more)]).verdict == "does not hold here"
    assert found(text, [entry("line", *use, **more)]).verdict == "not enough runs"


def test_clocks_decide_what_gives_speed():
    text = "With integer kernels"
    assert found(text, [entry("line", "quantize/int8", speedups=FAST)]).verdict == "holds"
    assert found(text, [entry("line", "quantize/int8", speedups=SLOW)]).verdict == "does not hold here"
    assert found(text, [entry("line", "quantize/gobo", speedups=FAST)]).verdict == "not enough runs"


def test_students_race():
    text = "is faster than a Transformer"
    transformer = entry("transformer", STUDENT, layers=THREE, speedups=[2.0, 2.1, 1.9, 2.0, 2.05, 1.95])
    quick, slow = ([ratio * each for each in (1.0, 1.02, 0.98, 1.0, 1.01, 0.99)] for ratio in (4.0, 1.0))
    holds = found(text, [transformer, entry("lstm", "student/bilstm", layers=LSTM, speedups=quick)])
    assert (holds.verdict, holds.value) == ("holds", pytest.approx(100, abs=1))
    assert found(text, [transformer, entry("lstm", "student/bilstm", layers=LSTM, speedups=slow)]).value < -45
    other = entry("lstm", "student/bilstm", layers=LSTM, speedups=quick, without=1_000_000)
    assert found(text, [transformer, other]).verdict == "not enough runs"
    cells = {"layers": CELL, "without": 500_000}
    searched = [entry("searched", "student/adabert", speedups=[2 * each for each in quick], **cells)]
    assert found("searched CNN", [transformer, other, *searched]).verdict == "holds"
    searched = [entry("searched", "student/adabert", speedups=slow, **cells)]
    assert found("searched CNN", [transformer, other, *searched]).verdict == "does not hold here"


@pytest.mark.parametrize(("peak", "verdict"), [(100e6, "holds"), (300e6, "does not hold here")])
def test_students_are_weighed(peak, verdict):
    lstm = repeated("lstm", "student/bilstm", layers=LSTM, peak=peak)
    transformer = repeated("transformer", STUDENT, layers=THREE, peak=200e6)
    assert found("needs less memory", [*lstm, *transformer]).verdict == verdict
    assert found("needs less memory", lstm).verdict == "not enough runs"


@pytest.mark.parametrize(("sign", "verdict"), [(1, "holds"), (-1, "does not hold here")])
def test_time_follows_arithmetic_or_not(sign, verdict):
    runs = [
        entry(f"line {i}", "prune/heads", macs=10.0 * i, latency=50.0 + sign * i + (i % 2) / 4) for i in range(1, 13)
    ]
    assert found("time follows", runs).verdict == verdict
    assert found("time follows", runs[:3]).verdict == "not enough runs"


def profile(device, ffn, attention):
    """Ten rounds of 10 ms, of which so many are the feed-forward units' and attention's, whose MACs are a tenth."""
    samples = {"ffn": ffn, "attention": attention, "attention_in": 2.0, "embeddings": 0.1}
    parts = {
        name: {"macs": 10, "latency_ms": {"samples": [time + 0.01 * i for i in range(10)]}}
        for name, time in samples.items()
    }
    return {"model": "m", "device": device, "macs": 100, "latency_ms": {"samples": [10.0] * 10}, "components": parts}


def test_profiles_decide():
    text = "take most of the time"
    assert found(text, profiles={"m": [profile("cpu", 5.0, 1.0)]}).verdict == "holds"
    assert found(text, profiles={"m": [profile("cpu", 1.0, 5.0)]}).verdict == "does not hold here"
    assert found(text, profiles={"m": [profile("cuda", 5.0, 1.0)]}).verdict == "not enough runs"
    text = "On a GPU"
    assert found(text, profiles={"m": [profile("cpu", 5.0, 1.0)]}).verdict == "needs a GPU"
    assert found(text, profiles={"m": [profile("cuda", 5.0, 3.0)]}).verdict == "holds"
    assert found(text, profiles={"m": [profile("cuda", 5.0, 0.5)]}).verdict == "does not hold here"


@pytest.mark.parametrize("lost", ["latency_ms", "components"])
@pytest.mark.parametrize(("text", "device"), [("take most of the time", "cpu"), ("On a GPU", "cuda")])
def test_a_profile_with_a_hole_decides_nothing(text, device, lost):
    """Results of other studies come from files."""
    whole = profile(device, 5.0, 3.0)
    assert found(text, profiles={"m": [{**whole, lost: None}]}).verdict == "not enough runs"
    standing = {**whole, "latency_ms": {"samples": [0.0] * 10}}
    assert found(text, profiles={"m": [standing]}).verdict == "not enough runs"


def test_vocabularies_decide():
    texts = {"sst2": {"coverage": {"5000": 0.96}}}
    assert found("5,000 word pieces", vocabularies=texts).value == pytest.approx(96)
    assert found("5,000 word pieces", vocabularies=texts).verdict == "holds"
    texts["mrpc"] = {"coverage": {"5000": 0.91}}
    assert found("5,000 word pieces", vocabularies=texts).verdict == "does not hold here"
    assert found("5,000 word pieces").verdict == "not enough runs"


def test_shapes_decide():
    assert found("feed-forward units hold").value == pytest.approx(100 * 56_669_184 / 108_891_648, abs=0.5)
    assert found("about 21 %").value == pytest.approx(21.77, abs=0.01)
    assert found("23.8 %").value == pytest.approx(100 * (109.48 - 0.97 * 85.05) / 109.48, abs=0.02)
    assert {found(text).verdict for text in ("feed-forward units hold", "about 21 %", "23.8 %")} == {"holds"}
    small = entry("lstm", "student/bilstm", layers=LSTM, parameters=12_000_000, without=600_000)
    assert found("dominate small", [small]).verdict == "holds"
    large = entry("lstm", "student/bilstm", layers=LSTM, parameters=12_000_000, without=9_000_000)
    assert found("dominate small", [small, large]).verdict == "does not hold here"
    assert found("dominate small").verdict == "not enough runs"


def test_every_statement_has_a_verdict_on_nothing_at_all():
    verdicts = weigh(Evidence([], {}, {}))
    assert len(verdicts) == len(STATEMENTS) >= 30
    for verdict in verdicts:
        assert verdict.claim.section
        assert verdict.claim.text.endswith(".")

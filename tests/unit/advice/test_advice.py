"""Advice for six situations, each different and with its reason; expectations against closed forms."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from bertpress.advice.conduct import look_at, measured
from bertpress.advice.facts import Machine, Need, Speed, TaskFacts, Terms, comes_again, limit_of
from bertpress.advice.options import OPTIONS
from bertpress.advice.rules import advise
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.errors import UserError
from bertpress.measure.environment import int8_is_fast
from bertpress.tasks import from_records, resolve

ROOT = Path(__file__).parents[3]
BASE = uniform(layers=12, hidden_size=768, heads=12, ffn=3072, head=HeadSpec(kind="sequence"))
SERVER = Machine(16, int8_is_fast(frozenset({"avx2", "vnni"})), speed=Speed(Terms(0.2, 0.0, 4.0), Terms(0.2, 0.1, 1.0)))
OLD = Machine(4, int8_is_fast(frozenset({"avx2"})), speed=Speed(Terms(0.2, 0.0, 8.0), Terms(0.2, 0.0, 7.5)))
SENTENCES = TaskFacts()
SITUATIONS = {
    "server": (SERVER, SENTENCES, Need()),
    "old": (OLD, SENTENCES, Need(max_drop=8.0)),
    "50 MB": (SERVER, SENTENCES, Need("size", limit=50e6)),
    "long": (SERVER, TaskFacts(tokens=700, longest=1900), Need()),
    "passages": (SERVER, TaskFacts("question-answering", 200, 380, fixed_passages=True), Need()),
    "tags": (OLD, TaskFacts("token-classification", 30, 60), Need()),
}


def advice(name):
    return advise(*SITUATIONS[name], BASE)


def test_every_situation_has_an_answer_of_its_own():
    answers = {name: tuple((each.recipe, each.why) for each in advice(name)) for name in SITUATIONS}
    assert len(set(answers.values())) == len(SITUATIONS)
    assert all(why for found in answers.values() for _, why in found)


@pytest.mark.parametrize(
    ("name", "recipe", "reason"),
    [
        ("server", "quick", "the processor has VNNI dot products"),
        ("old", "chia-cnn", "students that are no Transformers suit a strict latency"),
        ("50 MB", "quick", "within the limit of 50.0 MB"),
        ("long", "local-attention", "texts reach 1900 tokens"),
        ("passages", "deformer", "encoded once and kept"),
        ("tags", "quick", "leaves a state for each token"),
    ],
)
def test_the_best_and_why(name, recipe, reason):
    best = advice(name)[0]
    assert best.recipe == recipe
    assert any(reason in why for why in best.why), best.why


def test_without_integer_instructions_it_says_that_integers_are_no_faster():
    by_name = {each.recipe: each for each in advise(OLD, SENTENCES, Need(), BASE)}
    assert any("no VNNI or AMX: int8 is smaller, hardly faster" in why for why in by_name["int8"].why)


def test_tags_are_not_given_what_leaves_no_state_for_each_token():
    assert not {"chia-cnn", "fast", "tiny", "deformer"} & {each.recipe for each in advice("tags")}


@pytest.mark.parametrize(
    ("facts", "leaves"),
    [
        (TaskFacts(), True),
        (TaskFacts("text-pair-classification"), True),
        (TaskFacts(several_labels=True), False),
        (TaskFacts("text-regression"), False),
        (TaskFacts("sentence-similarity"), False),
    ],
)
def test_exits_are_advised_where_a_text_has_one_class(facts, leaves):
    found = advise(SERVER, facts, Need("latency", max_drop=5), BASE)
    said = " ".join(reason for each in found for reason in each.why)
    assert ("fast" in {each.recipe for each in found}) == leaves
    assert ("early exits" in said) == leaves


def test_each_text_of_a_similarity_is_read_alone():
    rows = from_records([{"sentence1": "a b c", "sentence2": "d e f g h", "label": 1.0}] * 4, split="train")
    facts = look_at(resolve("sentence-similarity"), rows, None)
    assert (facts.tokens, facts.longest) == (4, 5)


def test_what_loses_too_much_stands_behind_and_says_so():
    found = advise(SERVER, SENTENCES, Need("size", max_drop=-1.0), BASE)
    assert not any(each.fits for each in found)
    assert found[0].why[-1].endswith("more than the -1 that may go")
    fitting = [each.fits for each in advise(SERVER, SENTENCES, Need("size", limit=45e6), BASE)]
    assert fitting == [True, True, False]


def test_bytes_and_latencies_are_what_the_shape_says():
    table = 30522 * 768 + 512 * 768 + 2 * 768 + 2 * 768
    by_name = {option.recipe: option for option in OPTIONS}
    assert by_name["int8"].bytes(BASE) == BASE.total_parameters
    encoder = BASE.total_parameters - table
    assert by_name["gobo"].bytes(BASE) == pytest.approx((4 * table + 3 * encoder) / 8)
    quick = by_name["quick"].shape(BASE)
    assert (len(quick.layers), len(quick.layers[0].attention.heads), quick.layers[0].ffn) == (8, 4, (1044,))
    best = advice("server")[0]
    macs = sum(quick.macs(128).values())
    assert best.latency_ms == pytest.approx(0.2 + 8 * 0.1 + macs / 1e9)


def test_losses_are_those_of_the_study():
    """Where a recipe is in the study, advice says what it lost there on sst2."""
    study = json.loads((ROOT / "results/table1/study.json").read_text(encoding="utf-8"))
    lost = {e["label"]: e["artifact"]["drop"]["value"] for e in study["entries"] if e["task"] == "sst2"}
    told = {option.recipe: option.drop for option in OPTIONS if option.recipe in lost}
    assert len(told) >= 7
    assert told == pytest.approx({recipe: lost[recipe] for recipe in told}, abs=0.05)


@pytest.mark.parametrize("task", ["sst2", "mrpc"])
@pytest.mark.parametrize("max_drop", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("target", "cost"), [("latency", "latency"), ("size", "packed")])
def test_what_is_advised_lies_on_the_front_of_the_study(task, max_drop, target, cost):
    study = json.loads((ROOT / "results/table1/study.json").read_text(encoding="utf-8"))
    front = next(each for each in study["fronts"] if (each["task"], each["cost"]) == (task, cost))
    studied = uniform(layers=6, hidden_size=384, heads=12, ffn=1536, head=HeadSpec(kind="sequence"))
    facts = TaskFacts(pieces=study["vocabularies"][task]["pieces"])
    best = advise(SERVER, facts, Need(target, max_drop), studied)[0]
    assert best.fits
    if best.recipe != "ternarybert":
        assert best.recipe in {point["label"] for point in front["points"] if not point["dominated"]}
        return
    # not in the study; its bytes and its loss, from the same teacher, are in the table of quantization
    rows = json.loads((ROOT / "results/quantize.json").read_text(encoding="utf-8"))["entries"]
    row = next(row for row in rows if (row["name"], row["task"]) == ("TernaryBERT", task))
    assert row["drop"]["value"] <= max_drop
    assert not [p for p in front["points"] if p["cost"] <= row["artifact_bytes"] and p["drop"] <= row["drop"]["value"]]


def test_tokens_that_texts_never_use_make_a_file_smaller():
    plain, trimmed = (
        {each.recipe: each for each in advise(SERVER, TaskFacts(pieces=pieces), Need("size"), BASE)}["tiny"]
        for pieces in (None, 522)
    )
    assert plain.bytes - trimmed.bytes == 30_000 * 768 / 2
    assert "the training texts use 522 of 30,522 tokens" in trimmed.why
    assert not any("tokens" in why for why in plain.why if why not in trimmed.why)


def test_tokens_are_counted_once(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    one, other = list(tokenizer.get_vocab())[10:12]
    rows = from_records([{"text": f"{one} {other} {one}"}, {"text": one}])
    assert look_at(resolve("text-classification"), rows, tokenizer).pieces == len({one, other, "[CLS]", "[SEP]"})


def test_lengths_are_those_of_all_parts_of_a_sorted_file(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    word = list(tokenizer.get_vocab())[10]
    rows = from_records([{"text": " ".join([word] * (1 if i < 1200 else 9))} for i in range(3000)])
    assert look_at(resolve("text-classification"), rows, tokenizer).tokens == 9 + 2


def test_passages_that_come_again_and_lengths_are_seen():
    rows = [{"question": f"who {'is ' * i}?", "context": f"passage {i % 2}", "answers": None} for i in range(10)]
    facts = look_at(resolve("squad"), from_records(rows), None)
    assert facts == TaskFacts("question-answering", 8, 13, fixed_passages=True)
    assert not comes_again([str(i) for i in range(10)])


@pytest.mark.parametrize(
    ("text", "target", "value"), [("50MB", "size", 5e7), ("5ms", "latency", 5.0), ("1.5GB", "memory", 1.5e9)]
)
def test_limits(text, target, value):
    assert limit_of(text, target) == value


@pytest.mark.parametrize(
    ("text", "target", "wanted"), [("5ms", "size", "bytes such as 50MB"), ("50MB", "latency", "a time such as 5ms")]
)
def test_limits_of_the_wrong_kind(text, target, wanted):
    with pytest.raises(UserError, match=f"^--at-most {text}: must be {wanted} where the need is {target}$"):
        limit_of(text, target)


@pytest.mark.slow
def test_expected_latency_is_within_a_quarter_of_what_is_measured():
    from bertpress.methods.latency import of_graph

    shape = uniform(layers=6, hidden_size=384, heads=12, ffn=1536, vocabulary=50, head=HeadSpec(kind="sequence"))
    expected = measured(shape, 64).int8
    for option in (o for o in OPTIONS if o.recipe in ("int8", "balanced", "quick")):
        took = min(of_graph(option.shape(shape), 64) for _ in range(5))  # what else the machine does only adds
        assert expected(option.layers(shape), option.macs(shape, 64)) == pytest.approx(took, rel=0.25), option.recipe

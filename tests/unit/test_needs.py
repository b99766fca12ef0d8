"""What a run says about the machine before it promises anything."""

import pytest

from bertpress import needs
from bertpress.errors import RecipeError, UserError
from bertpress.measure.environment import Int8Check
from bertpress.needs import check_learnt, check_one_process
from bertpress.recipe import Recipe
from bertpress.runner import Request, press
from bertpress.tasks import resolve

SST2 = resolve("sst2").replace(labels=("negative", "positive"))


@pytest.mark.parametrize("name", ["int8", "q8bert", "quick"])
def test_slow_integers_are_announced(name, monkeypatch):
    check = Int8Check(False, "int8 is smaller, hardly faster")
    monkeypatch.setattr(needs, "int8_is_fast", lambda: check)
    assert needs.hardware_note(Recipe.load(name)) == f"8-bit integers on this machine: {check.reason}"


def test_nothing_is_said_where_they_pay_or_are_not_used(monkeypatch):
    monkeypatch.setattr(needs, "int8_is_fast", lambda: Int8Check(True, "VNNI"))
    assert needs.hardware_note(Recipe.load("int8")) is None
    monkeypatch.setattr(needs, "int8_is_fast", lambda: Int8Check(False, "none"))
    assert needs.hardware_note(Recipe.load("linear-ptq")) is None


def test_what_is_spread_in_another_way_does_not_start_in_several_processes(monkeypatch):
    check_one_process("study")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="^study: WORLD_SIZE=3 must be 1; --ray spreads it"):
        check_one_process("study")


def recipe_of(*stages):
    trained = {"train": {"epochs": 1}}
    return Recipe.parse(
        {"name": "r", "stages": [{"name": f"s{i}", **trained, **each} for i, each in enumerate(stages)]}
    )


RELATIONS = {"use": ["distill/minilm"]}
HIDDEN = {"use": ["distill/hidden"], "task_loss": False}
GENERAL = {"use": ["distill/hidden"], "data": "unlabelled"}
LABELS = {"use": []}


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        ([RELATIONS], "distill/minilm takes the place of the labels"),
        ([GENERAL, RELATIONS], "distill/minilm takes the place of the labels"),
        ([HIDDEN], "none reads labels or a teacher's answers"),
        ([GENERAL], "none reads labels or a teacher's answers"),
        ([{"use": [{"quantize/uniform": {}}], "train": None}], "none reads labels"),
        ([LABELS, {**RELATIONS, "start": "pretrained"}], "distill/minilm takes"),
    ],
)
def test_a_head_that_nobody_teaches_is_refused(stages, why):
    recipe = recipe_of(*stages)
    with pytest.raises(RecipeError, match=f"^r, stages: none teaches the model sst2, .*; {why}"):
        check_learnt(recipe, SST2, trained=False, given=True)
    check_learnt(recipe, SST2, trained=True, given=True)
    check_learnt(recipe, resolve("sentence-similarity"), trained=False, given=True)


@pytest.mark.parametrize(
    "stages",
    [
        [LABELS],
        [RELATIONS, LABELS],
        [{"use": [{"distill/minilm": {"task": 1.0}}]}],
        [GENERAL, {"use": ["distill/hidden"]}],
        [{**HIDDEN, "use": ["distill/hidden", "distill/logits"]}],
        [{**LABELS, "start": "pretrained"}, {"use": ["quantize/uniform"], "train": None}],
    ],
)
def test_labels_and_answers_teach_it(stages):
    check_learnt(recipe_of(*stages), SST2, trained=False, given=True)


def test_what_is_fine_tuned_first_has_learnt_it_unless_a_stage_starts_afresh():
    check_learnt(recipe_of(RELATIONS), SST2, trained=False, given=False)
    with pytest.raises(RecipeError, match="none teaches"):
        check_learnt(recipe_of({**RELATIONS, "start": "pretrained"}), SST2, trained=False, given=False)


def test_nothing_is_made_before_it_is_refused(tiny_model, tiny_data, tmp_path):
    request = Request(
        tiny_model, recipe_of(RELATIONS), resolve("text-classification"), tmp_path / "run", tiny_data(),
        teacher=tiny_model,
    )  # fmt: skip
    with pytest.raises(RecipeError, match="r, stages: none teaches the model text-classification"):
        press(request)
    assert not (tmp_path / "run").exists()

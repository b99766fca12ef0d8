"""Recipes: what is refused and in which words, overrides and profiles, round trips, checks before any weight."""

import copy

import pytest

from bertpress.errors import RecipeError
from bertpress.recipe import Recipe

RAW = {
    "name": "two",
    "stages": [
        {"name": "cut", "use": [{"prune/heads": {"keep": 0.5}}, "prune/layers"]},
        {"name": "learn", "use": [{"distill/logits": {"alpha": 0.5}}], "train": {"epochs": 2}},
    ],
    "profiles": {"small": {"stages.1.train.epochs": 1}},
}


def parse(change=None, **arguments):
    raw = copy.deepcopy(RAW)
    if change:
        change(raw)
    return Recipe.parse(raw, place="two.yaml", **arguments)


def test_a_recipe_is_read_as_written():
    recipe = parse()
    assert [(stage.name, name) for stage, name, _ in recipe.methods()] == [
        ("cut", "prune/heads"),
        ("cut", "prune/layers"),
        ("learn", "distill/logits"),
    ]
    assert recipe.stages[0].train is None
    assert recipe.stages[1].train.epochs == 2
    assert Recipe.parse(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["stages.1.train.epochs=3"], 3),
        (["stages.learn.train.epochs=0.5"], 0.5),
        (["stages.1.train.epochs=3", "stages.1.train.epochs=4"], 4),
    ],
)
def test_overrides_reach_settings(overrides, expected):
    assert parse(overrides=overrides).stages[1].train.epochs == expected


def test_overrides_reach_methods_by_name_and_number():
    recipe = parse(overrides=["stages.cut.use.prune/heads.keep=0.25", "stages.0.use.1.drop=1"])
    heads, layers = (method for _, method in recipe.stages[0].methods)
    assert heads.keep == 0.25
    assert layers.drop == 1


def test_overrides_win_over_the_profile():
    assert parse(profile="small").stages[1].train.epochs == 1
    assert parse(profile="small", overrides=["stages.1.train.epochs=7"]).stages[1].train.epochs == 7


def test_a_stage_without_training_gets_some_by_an_override():
    assert parse(overrides=["stages.0.train.epochs=1"]).stages[0].train.epochs == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["epochs"], '--set epochs: must have the form path=value, such as "stages.0.train.epochs=1"'),
        (
            ["stages.7.train.epochs=1"],
            '--set stages.7.train.epochs=1: there is no item "7"; there are 2, numbered from 0',
        ),
        (["stage.0.train.epochs=1"], '--set stage.0.train.epochs=1: there is no "stage"; did you mean "stages"?'),
        (["stages.0=1"], '--set stages.0=1: "stages.0" ends in a list; name a field of one of its items'),
        (["name.x=1"], '--set name.x=1: "name.x" leads through a value that has no fields'),
        (["stages.1.train.epochs=-1"], "two.yaml stage 2, train: epochs=-1 must be in (0, 10000]"),
        (["stages.1.train.epoch=1"], 'two.yaml stage 2, train: unknown field "epoch"; did you mean "epochs"?'),
    ],
)
def test_wrong_overrides_are_refused_in_one_line(overrides, message):
    with pytest.raises(RecipeError) as refused:
        parse(overrides=overrides)
    assert str(refused.value) == message


ONE, HEADS = "two.yaml stage 1", "prune/heads"


def put(*path, value):
    def change(raw):
        node = raw
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("stages", value=[]), "two.yaml: stages must be a list of at least one stage"),
        (put("stages", 0, value=3), "two.yaml stage 1: must be a mapping, not int"),
        (put("stages", 0, "use", value="prune/heads"), "two.yaml stage 1: use must be a list of methods"),
        (put("stages", 0, "use", value=[]), "two.yaml stage 1: must use a method or train"),
        (put("stages", 0, "use", value=[3]), f"{ONE}: each entry of use must be one method with its fields, not 3"),
        (put("stages", 0, "use", 0, value={"prune/heads": 3}), f"{ONE}, prune/heads: fields must be a mapping, not 3"),
        (put("stages", 0, "use", 0, value="prune/head"),
         f'{ONE}: unknown method "prune/head"; did you mean "{HEADS}"?'),
        (put("stages", 0, "use", 0, value={HEADS: {"keep": 1.4}}), f"{ONE}, {HEADS}: keep=1.4 must be in (0, 1]"),
        (put("stages", 0, "use", 0, value={"prune/magnitude": {"tables": ["word", "words"]}}),
         f"{ONE}, prune/magnitude: tables[1]='words' must be one of word, position, segment"),
        (put("stages", 0, "use", 0, value={"prune/dynabert": {"widths": [0.5, 2]}}),
         f"{ONE}, prune/dynabert: widths[1]=2 must be a number in (0, 1]"),
        (put("stages", 1, "train", value=2), "two.yaml stage 2: train must be a mapping, not 2"),
        (put("stages", 1, "repeat", value=0), "two.yaml stage 2: repeat=0 must be in [1, 1000]"),
        (put("export", value=["tflite"]), None),
        (put("nome", value="x"), 'two.yaml: unknown field "nome"; did you mean "name"?'),
    ],
)  # fmt: skip
def test_wrong_recipes_are_refused_in_one_line(change, message):
    with pytest.raises(RecipeError) as refused:
        parse(change)
    said = str(refused.value)
    assert "\n" not in said
    if message is None:
        assert said.startswith("two.yaml: export[0]='tflite' must be one of ")
    else:
        assert said == message


def test_unknown_profiles_and_recipes_are_suggested():
    with pytest.raises(RecipeError, match=r'two.yaml: unknown profile "smal"; did you mean "small"\?'):
        parse(profile="smal")
    with pytest.raises(RecipeError, match=r'unknown recipe "quik"; did you mean "quick"\?'):
        Recipe.load("quik")
    with pytest.raises(RecipeError, match="no/such.yaml: there is no such recipe file"):
        Recipe.load("no/such.yaml")


def test_broken_files_are_named_with_their_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("name: x\nstages: [\n  - }\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="broken.yaml line 3: not YAML"):
        Recipe.load(path)
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(RecipeError, match="broken.yaml: byte 6 is not UTF-8"):
        Recipe.load(path)
    path.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="broken.yaml: must be a mapping with name and stages, not list"):
        Recipe.load(path)


def test_a_method_that_needs_training_is_refused_without_it():
    recipe = parse(lambda raw: raw["stages"][1].update(train=None))
    with pytest.raises(RecipeError, match="two stage learn, distill/logits: needs a stage that trains"):
        recipe.check()


def test_the_shipped_yaml_is_what_is_written_out(tmp_path):
    recipe = Recipe.load("quick", profile="small")
    path = tmp_path / "resolved.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(path) == recipe


def test_a_stage_that_only_trains_is_overridden_by_its_name():
    raw = {"name": "test", "stages": [{"name": "cut", "use": ["prune/heads"]}, {"name": "tune", "train": {}}]}
    assert Recipe.parse(raw, overrides=["stages.tune.train.epochs=2"]).stages[1].train.epochs == 2


@pytest.mark.parametrize("first", ["layerdrop", "theseus", "dynabert", "composition"])
@pytest.mark.parametrize("second", ["hidden", "emd", "minilm", "attention"])
def test_layers_that_come_and_go_are_not_compared(first, second):
    use = [f"prune/{first}", f"distill/{second}"]
    words = rf"^r stage all, distill/{second}: compares layers, and prune/{first} runs fewer layers or heads at some"
    with pytest.raises(RecipeError, match=words):
        Recipe.parse({"name": "r", "stages": [{"name": "all", "use": use, "train": {}}]}).check()


@pytest.mark.parametrize(
    ("first", "second"), [("cofi", "schubert"), ("snip", "layerdrop"), ("blocks", "block_movement")]
)
def test_one_method_of_a_stage_cuts_at_its_end(first, second):
    use = [f"prune/{first}", f"prune/{second}"]
    words = (
        rf"^r stage all: prune/{first} and prune/{second} both cut when the stage ends; give each a stage of its own$"
    )
    with pytest.raises(RecipeError, match=words):
        Recipe.parse({"name": "r", "stages": [{"name": "all", "use": use, "train": {}}]}).check()


def test_rows_that_nobody_labels_are_not_added():
    stage = {"name": "all", "use": ["student/transformer", "distill/augment"], "train": {}}
    with pytest.raises(RecipeError, match="^r stage all, distill/augment: nobody labels what it adds; add a method"):
        Recipe.parse({"name": "r", "stages": [stage]}).check()
    Recipe.parse({"name": "r", "stages": [{**stage, "use": [*stage["use"], "distill/logits"]}]}).check()

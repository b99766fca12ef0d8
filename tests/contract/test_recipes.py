"""What every shipped recipe owes: it parses, every profile too, and runs to its end on a tiny model."""

import pytest

from bertpress.encoder.model import build_model
from bertpress.listing import profiles_of
from bertpress.recipe import Recipe, shipped
from bertpress.runfolder import RunFolder
from bertpress.stages import Run, run_stage
from bertpress.tasks import resolve

every_recipe = pytest.mark.parametrize("name", shipped())
TINY = {"epochs": 1.0, "max_examples": 16, "batch_size": 8, "precision": "float32"}


def masked_lm(bench):
    """The teacher under a masked-LM head."""
    model = build_model(bench.teacher.blueprint.replace(head=resolve("masked-lm").head()))
    model.encoder.load_state_dict(bench.teacher.encoder.state_dict())
    return model


@every_recipe
def test_it_is_named_after_its_file_and_described(name):
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.cite
    assert recipe.summary.endswith(".")


@every_recipe
def test_it_passes_its_checks_and_survives_a_round_trip(name):
    recipe = Recipe.load(name)
    recipe.check()
    assert Recipe.parse(recipe.to_dict()) == recipe


@every_recipe
def test_every_profile_resolves(name):
    for profile in profiles_of(name):
        resolved = Recipe.load(name, profile=profile)
        resolved.check()
        assert resolved.profile == profile


@every_recipe
def test_it_runs(name, bench, tmp_path):
    recipe = Recipe.load(name)
    folder = RunFolder.open(tmp_path / "run", {}, resume=False)
    shared = Run(
        folder, bench.data, bench.tokenizer, 0, lambda line: None, bench.teacher, masked_lm=lambda: masked_lm(bench)
    )
    model = bench.teacher
    for number, stage in enumerate(recipe.stages, start=1):
        train = stage.train.model_copy(update=TINY) if stage.train else None
        stage = stage.model_copy(update={"train": train, "repeat": 1, "until": None})
        model, report = run_stage(shared, stage, number, model, bench.teacher)
        assert report["methods"] == [name for name, _ in stage.methods]
    counted = sum(weight.numel() for _, weight in model.unique_weights())
    assert model.blueprint.total_parameters == counted

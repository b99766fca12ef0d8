"""Every shipped recipe on a tiny model, as one study: each in a process of its own, from the recipe to its page."""

import pytest

from bertpress.recipe import Recipe, shipped
from bertpress.study.conduct import study

pytestmark = pytest.mark.slow
TINY = {"epochs": 1.0, "max_examples": 16, "max_steps": 4, "batch_size": 8, "precision": "float32"}


def changes(recipe):
    """What makes every stage of a recipe short."""
    found = {}
    for number, stage in enumerate(recipe.stages):
        found |= {f"stages.{number}.repeat": 1, f"stages.{number}.until": None}
        if stage.train is not None:
            found |= {f"stages.{number}.train.{name}": value for name, value in TINY.items()}
    return found


def test_every_recipe_runs_in_a_study(tiny_model, tiny_data, tmp_path):
    found = study(
        {
            "name": "smoke",
            "models": [{"name": "tiny", "path": str(tiny_model)}],
            "tasks": [{"name": "tone", "task": "text-classification", "data": str(tiny_data())}],
            "rows": [{"recipe": name, "set": changes(Recipe.load(name))} for name in shipped()],
            "teacher": {"epochs": 4, "learning_rate": 2e-3},
            "threads": 1,
            "limits": {"minutes": 10, "memory_gib": 8},
            "timing": {"engines": ["openvino"], "rounds": 1},
        },
        out=tmp_path / "out",
    )
    # a model without a masked-LM head cannot teach the guessing of words
    needs = [failure for failure in found["failures"] if "masked" not in failure["said"]]
    assert needs == []
    assert len(found["entries"]) + len(found["failures"]) == len(shipped())

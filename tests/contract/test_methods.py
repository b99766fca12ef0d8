"""What every method owes, whatever it does; its own oracle lies under tests/unit/methods."""

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import torch

from bertpress import artifact
from bertpress.encoder.imports import load_pretrained
from bertpress.errors import RecipeError
from bertpress.export.parity import parity
from bertpress.methods.base import Need
from bertpress.methods.fields import bounds_of
from bertpress.methods.registry import find, names
from bertpress.recipe import Recipe

every_method = pytest.mark.parametrize("name", names())
ROOT = Path(__file__).parents[2]


def parsed(name, fields):
    stage = {"name": "only", "use": [{name: fields}], "train": {}}
    return Recipe.parse({"name": "test", "stages": [stage]}, place="test.yaml")


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@every_method
def test_it_is_documented(name):
    method = find(name)
    assert method.summary().endswith(".")
    assert method.cite
    assert "Source:" in inspect.getmodule(method).__doc__
    for field, info in method.model_fields.items():
        assert info.description, f"{name}: {field} has no description"


@every_method
def test_it_has_an_oracle_of_its_own(name):
    family, _, short = name.partition("/")
    assert (ROOT / "tests/unit/methods" / family / f"test_{short}.py").is_file()


@every_method
def test_defaults_build_and_survive_a_round_trip(name):
    recipe = parsed(name, {})
    assert Recipe.parse(recipe.to_dict()) == recipe


@every_method
def test_unknown_fields_are_refused_by_name(name):
    with pytest.raises(RecipeError, match=rf'test.yaml stage 1, {name}: unknown field "no_such_field"'):
        parsed(name, {"no_such_field": 1})


def bad_values(info):
    """Values just outside the bounds, and a text where none is taken."""
    bounds = bounds_of(info.metadata)
    if bounds is not None and bounds.low is not None:
        yield bounds.low if bounds.low_open else bounds.low - 1
    if bounds is not None and bounds.high is not None:
        yield bounds.high if bounds.high_open else bounds.high + 1
    if info.annotation is not str and str not in get_args(info.annotation):
        yield "no-such-value"


@every_method
def test_values_out_of_bounds_are_refused_by_name(name):
    for field, info in find(name).model_fields.items():
        for value in bad_values(info):
            with pytest.raises(RecipeError) as refused:
                parsed(name, {field: value})
            message = str(refused.value)
            assert message.startswith(f"test.yaml stage 1, {name}: {field}={value!r} must be "), message
            assert "\n" not in message
            if get_origin(info.annotation) is Literal:
                assert "one of " + ", ".join(map(str, get_args(info.annotation))) in message


@every_method
def test_the_teacher_stays_bit_for_bit(name, pressed):
    done = pressed(name)
    after = done.teacher.state_dict()
    assert after.keys() == done.before.keys()
    assert all(torch.equal(after[key], value) for key, value in done.before.items())
    assert not any(parameter.grad is not None for parameter in done.teacher.parameters())


@every_method
def test_the_blueprint_counts_the_weights(name, pressed):
    model = pressed(name).model
    assert model.blueprint.total_parameters == sum(weight.numel() for _, weight in model.unique_weights())


@every_method
def test_no_op_reproduces_the_model(name, press, batch):
    noop = find(name).noop()
    if noop is None or Need.TRAINING in noop.requires:
        pytest.skip("has no such setting, or trains")
    done = press(name, noop)
    torch.testing.assert_close(logits(done.model, batch), logits(done.teacher, batch), atol=1e-5, rtol=0)


@every_method
def test_the_same_seed_gives_the_same_bits(name, pressed, press):
    first, second = pressed(name).folder, press(name, find(name)()).folder
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


@every_method
def test_saved_and_loaded_it_answers_alike(name, pressed, batch):
    done = pressed(name)
    expected = logits(done.model, batch)
    assert torch.equal(logits(artifact.load(done.folder).model, batch), expected)
    assert torch.equal(logits(load_pretrained(done.folder).model, batch), expected)


@every_method
def test_padding_changes_nothing(name, pressed, batch):
    model = pressed(name).model
    together = logits(model, batch)
    for row in range(len(together)):
        length = int(batch["attention_mask"][row].sum())
        alone = {key: value[row : row + 1, :length] for key, value in batch.items()}
        torch.testing.assert_close(logits(model, alone)[0], together[row], atol=1e-5, rtol=0)


@every_method
def test_batch_mates_change_nothing(name, pressed, batch):
    model = pressed(name).model
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = logits(model, {key: value[order] for key, value in batch.items()})
    torch.testing.assert_close(shuffled, logits(model, batch)[order], atol=1e-5, rtol=0)


@every_method
@pytest.mark.parametrize("target", ["openvino", pytest.param("onnx", marks=pytest.mark.slow)])
def test_exported_it_answers_alike(name, target, pressed, batch):
    engine = {"openvino": "openvino", "onnx": "onnxruntime"}[target]
    if find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    done = pressed(name)
    made = artifact.load(done.folder)
    if not (made.path / target).is_dir():
        made.export(target)
    found = parity(made.model, made.path, engine, [batch], threads=1)
    if made.blueprint.activation_bits is None:
        assert found.logit_difference <= 1e-4
    else:
        assert found.label_agreement >= 99.5
        assert found.logit_difference <= 0.05

import pytest
from pydantic import ValidationError

from bertpress.training import TrainSettings

BAD = {
    "epochs": (0, -1, 10_001),
    "max_examples": (0,),
    "max_steps": (0,),
    "max_seconds": (0,),
    "batch_size": (0, 65_537),
    "accumulate": (0,),
    "learning_rate": (0, 11),
    "warmup_ratio": (-0.1, 1),
    "weight_decay": (-1,),
    "max_grad_norm": (-1,),
    "schedule": ("step",),
    "precision": ("float16",),
    "select": ("first",),
    "checkpoint_seconds": (-1,),
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_values_out_of_bounds_are_refused_by_name(field, value):
    with pytest.raises(ValidationError, match=field):
        TrainSettings(**{field: value})


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError, match="lerning_rate"):
        TrainSettings(lerning_rate=1e-3)


def test_every_field_says_what_it_is():
    assert all(field.description for field in TrainSettings.model_fields.values())


def test_bookkeeping_does_not_decide_weights():
    assert TrainSettings(checkpoint_seconds=1, report_to=("wandb",)).decisive() == TrainSettings().decisive()
    assert TrainSettings(learning_rate=1e-4).decisive() != TrainSettings().decisive()

import pytest
import torch
from transformers import AutoModel

from bertpress.encoder.families import FAMILIES, family_of
from bertpress.encoder.imports import transformers_config
from bertpress.encoder.shapes import SHAPES, shape
from bertpress.errors import ModelError

PUBLISHED = {"bert-base": 109_482_240, "bert-large": 335_141_888, "distilbert-base": 66_362_880}


@pytest.mark.parametrize("name", SHAPES)
def test_numbers_of_parameters_are_those_of_transformers(name):
    model_type, fields = shape("shape:" + name)
    family = family_of(model_type)
    config = transformers_config(family, fields)
    blueprint = family.blueprint(config)
    with torch.device("meta"):
        theirs = AutoModel.from_config(config).num_parameters()
    head = family.head("sequence", 0, "gelu") if family.pooler else None
    assert blueprint.replace(head=head).total_parameters == theirs
    assert theirs == PUBLISHED.get(name, theirs)


def test_every_shape_is_of_a_known_family():
    assert {model_type for model_type, _ in SHAPES.values()} <= FAMILIES.keys()


def test_unknown_shape_gets_a_suggestion():
    with pytest.raises(ModelError, match=r"shape:bert-bse: no such shape .* did you mean bert-base\?"):
        shape("shape:bert-bse")

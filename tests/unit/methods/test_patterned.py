"""What follows a pattern works as after full attention: int8 slots and weights."""

import pytest
from patterned_models import BATCH, PATTERNS, logits, model_of
from short_training import TASK

from bertpress.methods.base import Context
from bertpress.methods.quantize.int8 import Int8

CTX = Context(task=TASK, tokenizer=None, seed=0, calibration=lambda *_: [BATCH])


@pytest.mark.parametrize("name", PATTERNS)
def test_int8_follows_a_pattern(name):
    model = model_of(PATTERNS[name])
    expected = logits(model)
    made = Int8().finish(model, CTX)
    assert made.blueprint.activation_bits == 8
    assert 0 < (logits(made) - expected).abs().max() < 0.2 * expected.abs().max()

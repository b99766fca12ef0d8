"""Every method, on a model whose layers share their weights: it works, and keeps them shared, or refuses."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from bertpress import artifact
from bertpress.encoder.surgery import share
from bertpress.methods.registry import names


@pytest.fixture(scope="module")
def sharing(bench):
    """The bench with a teacher of two layers and one layer's weights."""
    return bench._replace(teacher=share(bench.teacher, {1: 0}))


QUICK = ("prune/heads", "prune/magnitude", "prune/movement", "prune/neurons", "quantize/int8", "quantize/qat")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names()]
)
def test_it_works_on_weights_that_are_used_twice_or_refuses(name, sharing, pressed_unless_refused, batch):
    done = pressed_unless_refused(sharing, name, must=QUICK)
    model = done.model
    assert model.blueprint.total_parameters == sum(weight.numel() for _, weight in model.unique_weights())
    with torch.no_grad():
        expected = model(**batch).logits
        assert torch.equal(artifact.load(done.folder).model(**batch).logits, expected)
    if name in QUICK:
        assert [layer.attention_from for layer in model.blueprint.layers] == [None, 0]
        with safe_open(Path(done.folder) / "model.safetensors", "pt") as file:
            assert not [key for key in file.keys() if ".layers.1." in key]  # noqa: SIM118

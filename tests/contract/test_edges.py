"""Every method, on a model with a head and a neuron that are dead and a head whose scores explode."""

import pytest
import torch

from bertpress import artifact
from bertpress.encoder.model import build_model
from bertpress.methods.registry import names

QUICK = ("prune/heads", "prune/magnitude", "quantize/int8", "quantize/gobo", "factorize/svd")


@pytest.fixture(scope="module")
def damaged(bench):
    """The bench with such a teacher."""
    teacher = build_model(bench.teacher.blueprint)
    teacher.load_state_dict(bench.teacher.state_dict())
    first, second = teacher.encoder.layers
    size = first.spec.attention.head_size
    with torch.no_grad():
        for part in (first.attention.query, first.attention.key, first.attention.value):
            part.weight[:size] = 0.0
            part.bias[:size] = 0.0
        first.attention.output.weight[:, :size] = 0.0
        inner, outer = first.ffn[0].inner, first.ffn[0].outer
        inner.weight[0], inner.bias[0], outer.weight[:, 0] = 0.0, 0.0, 0.0
        second.attention.query.weight[:size] *= 1e6
    return bench._replace(teacher=teacher)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names()]
)
def test_it_leaves_finite_weights_and_answers_or_refuses(name, damaged, pressed_unless_refused, batch):
    done = pressed_unless_refused(damaged, name, must=QUICK)
    assert all(bool(weight.isfinite().all()) for weight in done.model.state_dict().values())
    with torch.no_grad():
        answers = artifact.load(done.folder).model(**batch).logits
    assert bool(answers.isfinite().all())

"""Means over neighbours at the start, the paper's formula at full length, stored once; the position table ends."""

import pytest
import torch
from patterned_models import BATCH, full, logits
from short_training import TASK, context, tiny, train

from bertpress.encoder.linformer import segments
from bertpress.errors import RecipeError
from bertpress.methods.attention.linformer import Linformer
from bertpress.methods.base import Context
from bertpress.methods.distill.attention import Attention
from bertpress.training import TrainSettings
from bertpress.training import train as run_training

CTX = Context(task=TASK.replace(max_length=70), tokenizer=None, seed=0)


@pytest.mark.parametrize("sharing", ["none", "heads", "keys_values", "layers"])
def test_it_begins_with_means_of_neighbours(sharing):
    model = Linformer(size=10, sharing=sharing).attach(full(), CTX)
    tokens = {name: value[:1] for name, value in BATCH.items()}  # a text of full length
    reference = full()
    layer = reference.encoder.layers[0]
    with torch.no_grad():
        found, expected = (
            each(**tokens, capture=frozenset({"contexts", "queries", "keys", "values"})).captured
            for each in (model, reference)
        )
        query, key, value = (expected[name][0] for name in ("queries", "keys", "values"))
        mean = segments(10, 70)
        maps = (query @ (mean @ key).transpose(-1, -2) * layer.attention.scale).softmax(-1)
    torch.testing.assert_close(found["contexts"][0], maps @ (mean @ value), atol=1e-5, rtol=0)


def test_a_short_text_sees_no_empty_keys():
    """Of ten means over seven tokens each, a text of nine fills one, and two sevenths of another."""
    model = Linformer(size=10).attach(full(), CTX)
    unit = model.encoder.layers[0].attention
    with torch.no_grad():
        short = model(**{name: value[3:] for name, value in BATCH.items()}, capture=frozenset({"contexts", "values"}))
    context_, value = (short.captured[name][0][0] for name in ("contexts", "values"))
    ends = torch.stack([value[:, :7].mean(1), value[:, 7:9].sum(1) / 7], dim=1)
    line = torch.linalg.lstsq((ends[:, 1] - ends[:, 0])[..., None], (context_[:, 0] - ends[:, 0])[..., None])
    assert ((line.solution > 0) & (line.solution < 1)).all()
    rebuilt = ends[:, 0] + line.solution[:, 0] * (ends[:, 1] - ends[:, 0])
    torch.testing.assert_close(context_[:, 0], rebuilt, atol=1e-4, rtol=0)
    assert unit.pattern.compression.key.shape == (1, 10, 70)


def test_the_position_table_ends_with_the_longest_input():
    short = Context(task=TASK.replace(max_length=16), tokenizer=None, seed=0)
    model = Linformer(size=64).attach(full(), short)
    assert model.blueprint.embeddings.positions == 16
    pattern = model.blueprint.layers[0].attention.pattern
    assert (pattern.size, pattern.length) == (16, 16)
    batch = {name: value[:, :16] for name, value in BATCH.items()}
    torch.testing.assert_close(logits(model, batch), logits(full(), batch), atol=1e-5, rtol=0)


def test_at_random_by_the_seed():
    def drawn():
        return Linformer(size=10, start="random").attach(full(), CTX).encoder.layers[1].attention.pattern.compression

    assert torch.equal(drawn().value, drawn().value)
    assert not torch.equal(drawn().value, drawn().key)
    assert drawn().value.std().item() == pytest.approx(10**-0.5, rel=0.1)


def test_the_matrices_are_trained_where_they_began_with_zeros_too():
    method = Linformer(size=4, sharing="layers")
    before = method.attach(tiny(), context()).encoder.compression.key.detach().clone()
    after = train(tiny(), method, context(), 3).encoder.compression.key.detach()
    assert (before == 0).float().mean() == 0.75
    assert (after[:, :3, :9] != before[:, :3, :9]).all()  # texts have up to nine tokens: the last row sees none
    assert torch.equal(after[:, 3], before[:, 3] * after[0, 3, 12] / before[0, 3, 12])  # weight decay alone


def test_losses_on_maps_are_refused_before_training(tmp_path):
    teacher = tiny()
    ctx = context(teacher=teacher)
    model = Linformer(size=4).attach(tiny(), ctx)
    terms = Attention()
    terms.attach(model, ctx)
    with pytest.raises(RecipeError, match="attention_scores reads attention maps, which LSH and Linformer never form"):
        run_training(
            model, task=TASK, data=[], tokenizer=None, settings=TrainSettings(), folder=tmp_path, seed=0,
            objectives=terms.objectives(ctx), teacher=_Teacher(teacher),
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


class _Teacher:
    def __init__(self, model):
        self.model = model

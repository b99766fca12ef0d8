"""Float outputs unchanged, integers of outlier channels better, factors positive."""

import pytest
import torch

from bertpress.artifact import packing
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.grids import quantize, symmetric_grid
from bertpress.encoder.imports import FAMILIES
from bertpress.encoder.model import build_model
from bertpress.encoder.quantizers import quantizers
from bertpress.encoder.surgery import keep_heads, keep_hidden, keep_neurons
from bertpress.errors import ModelError
from bertpress.export.transformers import plain
from bertpress.methods.base import Context
from bertpress.methods.quantize.int8 import Int8
from bertpress.methods.quantize.smooth import Smooth, smoothing


def tiny(outliers=()):
    """A model whose norms blow some channels up."""
    torch.manual_seed(1)
    shape = uniform(layers=2, hidden_size=16, heads=2, ffn=24, vocabulary=40, head=HeadSpec(kind="sequence"))
    model = build_model(shape)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4) if weight.ndim == 2 else None
        for norm in (model.encoder.embeddings.norm, *(layer.ffn[0].norm for layer in model.encoder.layers)):
            norm.weight[list(outliers)] = 60.0
    return model


def batch(seed=0):
    random = torch.Generator().manual_seed(seed)
    mask = (torch.arange(9) < torch.tensor([[9], [4], [1], [7]])).long()
    return {"input_ids": torch.randint(5, 40, (4, 9), generator=random) * mask, "attention_mask": mask}


def context():
    return Context(task=None, tokenizer=None, seed=0, calibration=lambda *_: [batch(0), batch(1)])


def answers(model):
    with torch.no_grad():
        return model(**batch(3)).logits


def test_factors_by_hand():
    weights = [torch.tensor([[1.0, -4.0, 0.5]]), torch.tensor([[0.25, 1.0, 2.0]])]
    found = smoothing(torch.tensor([16.0, 4.0, 0.0]), weights, 0.5)
    raw = torch.tensor([4.0, 1.0, 1.0])  # sqrt(16 / 1), sqrt(4 / 4), a channel without a signal
    assert torch.allclose(found, raw / 4 ** (1 / 3))
    assert torch.allclose(smoothing(torch.tensor([9.0, 9.0]), [torch.ones(1, 2)], 0.5), torch.ones(2))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_factors_are_positive_and_finite(alpha):
    found = smoothing(torch.tensor([1e30, 0.0, 1e-30, 5.0]), [torch.tensor([[0.0, 0.0, 1e30, 1e-30]])], alpha)
    assert (found > 0).all()
    assert found.isfinite().all()


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.9])
def test_float_answers_stay(alpha):
    model = tiny(outliers=(3, 11))
    made = Smooth(alpha=alpha).attach(model, context())
    assert torch.allclose(answers(made), answers(model), atol=1e-5)
    assert not model.blueprint.smoothed
    again = Smooth(alpha=alpha).attach(made, context())
    assert torch.allclose(answers(again), answers(model), atol=1e-5)


def test_integer_products_of_outlier_channels_get_better():
    random = torch.Generator().manual_seed(0)
    x, w = torch.randn(64, 32, generator=random), torch.randn(24, 32, generator=random)
    x[:, [3, 17]] *= 80
    factors = smoothing(x.abs().amax(0), [w], 0.5)

    def error(x, w):
        rounded = quantize(x, symmetric_grid(x, 8, (0, 0))) @ quantize(w, symmetric_grid(w, 8, (1, 0))).T
        return (rounded - x @ w.T).square().mean()

    assert torch.allclose((x / factors) @ (w * factors).T, x @ w.T, rtol=1e-3, atol=1e-3)
    assert error(x / factors, w * factors) < 0.1 * error(x, w)


def test_the_range_of_a_slot_narrows():
    model = tiny(outliers=(3, 11))
    before, after = (
        quantizers(Int8(ranges="minmax").finish(made, context())) for made in (model, Smooth().attach(model, context()))
    )
    for name, quantizer in after.items():
        if name.endswith("attention.input_slot"):
            assert quantizer.scale < 0.5 * before[name].scale


def test_factors_are_saved_and_loaded(tmp_path):
    made = Smooth().attach(tiny(outliers=(2,)), context())
    packing.write(tmp_path / "model.safetensors", made.state_dict(), {})
    state, _ = packing.read(tmp_path / "model.safetensors")
    again = type(made).filled(made.config, state, {})
    assert torch.equal(answers(again), answers(made))
    assert again.encoder.layers[0].ffn[0].inner_slot.factor.std() > 0


def test_a_smoothed_model_can_still_be_cut():
    made = Smooth().attach(tiny(outliers=(2,)), context())
    cut = keep_neurons(keep_heads(made, {0: [1]}), {(1, 0): [0, 5, 7]})
    assert cut.encoder.layers[1].ffn[0].inner_slot.factor.tolist() == pytest.approx(
        made.encoder.layers[1].ffn[0].inner_slot.factor[[0, 5, 7]].tolist()
    )
    narrow = keep_hidden(cut, range(8))
    assert narrow.encoder.layers[0].attention.input_slot.factor.shape == (8,)
    assert answers(narrow).isfinite().all()


def test_a_plain_transformers_config_is_refused():
    made = Smooth().attach(tiny(), context())
    with pytest.raises(ModelError, match="smoothed=true"):
        plain(FAMILIES["bert"], made.blueprint)

"""Three values a unit, scales in closed form, clipped gradients, 1.6 bits in the file, latent weights."""

import pytest
import torch
from pydantic import ValidationError

from bertpress.artifact import packing
from bertpress.artifact.codecs import spec_of
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.grids import block_of
from bertpress.encoder.model import build_model
from bertpress.encoder.quantizers import ActivationQuantizer, quantizers, slots
from bertpress.encoder.running import RunningQuantizer
from bertpress.encoder.transforms import put
from bertpress.methods.base import Context
from bertpress.methods.low_bits import Ternarizer, ternary
from bertpress.methods.quantize.ternary import Ternary
from bertpress.methods.transform import FakeQuantizer, bake
from bertpress.tasks import resolve

QUERY = "encoder.layers.0.attention.query.weight"
WORDS = "encoder.embeddings.word.weight"
SST2 = resolve("sst2").replace(labels=("negative", "positive"))


def tiny():
    torch.manual_seed(1)
    shape = uniform(layers=2, hidden_size=16, heads=2, ffn=24, vocabulary=40, head=HeadSpec(kind="sequence"), dropout=0)
    return build_model(shape)


def batch(seed=0):
    random = torch.Generator().manual_seed(seed)
    mask = (torch.arange(9) < torch.tensor([[9], [4], [1], [7]])).long()
    return {"input_ids": torch.randint(5, 40, (4, 9), generator=random) * mask, "attention_mask": mask}


def context():
    return Context(task=SST2, tokenizer=None, seed=0, calibration=lambda *_: [batch(0), batch(1)])


def trained(method, model, steps=3):
    model = method.attach(model, context())
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(steps):
        model(**batch(step)).logits.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_by_hand():
    weight = torch.tensor([[1.0, -0.2, 0.6, -2.2], [0.3, 0.3, -0.3, 0.0]])
    made, grid = ternary(weight, (1, 0))  # thresholds 0.7 and 0.1575
    assert made.tolist() == [
        [pytest.approx(1.6), 0, 0, pytest.approx(-1.6)],
        [pytest.approx(0.3)] * 2 + [pytest.approx(-0.3), 0],
    ]
    assert grid.scale.tolist() == [[pytest.approx(1.6)], [pytest.approx(0.3)]]
    whole, grid = ternary(weight, (0, 0))  # mean 4.9 / 8, threshold 0.42875
    assert grid.scale.tolist() == [[pytest.approx((1.0 + 0.6 + 2.2) / 3)]]
    assert (whole != 0).tolist() == [[True, False, True, True], [False] * 4]


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_closed_form_in_double_precision(granularity):
    weight = torch.randn(33, 50, generator=torch.Generator().manual_seed(3))
    made, _ = ternary(weight, block_of(weight.shape, granularity))
    for row, block in enumerate([weight] if granularity == "tensor" else weight):
        values = block.double()
        kept = values.abs() > 0.7 * values.abs().mean()
        scale = values[kept].abs().mean()
        expected = torch.where(kept, scale * values.sign(), 0.0)
        found = (made if granularity == "tensor" else made[row]).double()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        assert found.unique().numel() == 3


def test_no_other_scale_is_nearer_with_these_zeros():
    weight = torch.randn(400, generator=torch.Generator().manual_seed(0))
    made, _ = ternary(weight, (0,))
    best = (made - weight).square().sum()
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert (made * factor - weight).square().sum() > best


@pytest.mark.parametrize("block", [(0, 0), (1, 0)])
@pytest.mark.parametrize(
    "weight",
    [torch.zeros(3, 4), torch.full((3, 4), -0.5), torch.tensor([[7.0]]), torch.full((2, 3), 1e-42), torch.eye(3)],
    ids=["zeros", "constant", "single", "tiny", "identity"],
)
def test_degenerate_weights(weight, block):
    made, grid = ternary(weight, block)
    assert made.isfinite().all()
    assert (grid.scale > 0).all()
    assert torch.equal(made, torch.where(weight.abs() > 1e-30, weight, 0.0))


def test_what_is_ternary_stays():
    made, _ = ternary(torch.randn(20, 30, generator=torch.Generator().manual_seed(0)), (1, 0))
    torch.testing.assert_close(ternary(made, (1, 0))[0], made)


def test_gradients_pass_within_the_clip_alone_and_larger_weights_are_cut():
    weight = torch.tensor([[0.1, 2.4, -2.4, 2.5, -2.5, 9.0]], requires_grad=True)
    made = Ternarizer((0, 0), clip=2.5)(weight)
    made.backward(torch.arange(1.0, 7.0).reshape(1, 6))
    assert weight.grad.tolist() == [[1, 2, 3, 0, 0, 0]]
    scale = (2.4 + 2.4 + 3 * 2.5) / 5
    assert made.tolist() == [[0] + [pytest.approx(sign * scale) for sign in (1, -1, 1, -1, 1)]]


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_trained_model_has_three_values_a_unit_and_the_file_holds_them(granularity, tmp_path):
    method = Ternary(granularity=granularity)
    model = trained(method, tiny())
    expected = model(**batch(9)).logits
    bake(model)
    made = method.finish(model, context())
    assert torch.equal(made(**batch(9)).logits, expected)
    held = set(made.storage)
    assert held == {WORDS, *method.matrices(made)}
    for name, stored in made.storage.items():
        weight = made.get_parameter(name).detach()
        assert [codec.kind for codec in stored.codecs] == ["uniform", "trits"]
        units = list(weight) if granularity == "channel" or name == WORDS else [weight]
        assert all(unit.unique().numel() <= 3 for unit in units)
        packed = stored.encode(weight)
        assert torch.equal(stored.decode(packed, spec_of(weight)), weight)
        assert sum(part.nbytes for part in packed.parts.values()) == -(-weight.numel() // 5) + 4 * len(units)
    packing.write(tmp_path / "model.safetensors", made.state_dict(), made.storage)
    state, _ = packing.read(tmp_path / "model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())


def test_bits_of_the_tables():
    model = Ternary(embedding_bits=32, position_bits=4, segment_bits=2).attach(tiny(), context())
    tables = {name: getattr(model.encoder.embeddings, name) for name in ("word", "position", "segment")}
    kinds = {
        name: type(table.parametrizations.weight[0]) if hasattr(table, "parametrizations") else None
        for name, table in tables.items()
    }
    assert kinds == {"word": None, "position": FakeQuantizer, "segment": Ternarizer}
    assert tables["position"].weight[3].unique().numel() > 3
    assert not hasattr(model.head.classifier, "parametrizations")


def test_latent_weights_stay_for_a_later_stage():
    method = Ternary(latent=True, embedding_bits=2, position_bits=4)
    model = trained(method, tiny())
    latent = {
        name: model.get_submodule(name.removesuffix(".weight")).parametrizations.weight.original.detach().clone()
        for name in (QUERY, WORDS, "encoder.embeddings.position.weight")
    }
    assert model.get_submodule(QUERY.removesuffix(".weight")).weight.unique().numel() == 3
    bake(model)
    made = method.finish(model, context())
    assert all(torch.equal(made.get_parameter(name), weight) for name, weight in latent.items())
    assert made.storage == {}
    assert made.blueprint.activation_bits is None
    assert not any("quantizer" in name for name in made.state_dict())
    again = Ternary(activations=False).attach(made, context())
    assert torch.equal(again.get_submodule(QUERY.removesuffix(".weight")).weight, ternary(latent[QUERY], (0, 0))[0])


def test_zeros_of_a_mask_below_stay_zero():
    class Mask(torch.nn.Module):
        def forward(self, weight):
            return weight * (weight > weight.median())

    model = tiny()
    zero = model.get_parameter(QUERY) <= model.get_parameter(QUERY).median()
    put(model, QUERY, Mask())
    Ternary().attach_matrix(model, QUERY)
    model(**batch()).logits.sum().backward()
    bake(model)
    weight = model.get_parameter(QUERY).detach()
    assert weight.unique().numel() == 2  # the mask leaves positive weights
    assert (weight[zero] == 0).all()
    assert model.storage[QUERY].codecs[-1].kind == "trits"


def test_first_ranges_are_those_of_the_ternary_model():
    model = Ternary(decay=0.5).attach(tiny(), context())
    for name, quantizer in quantizers(model).items():
        assert isinstance(quantizer, RunningQuantizer) == (name != "head.slot")
        assert quantizer.active == (name != "head.slot")
    inner = slots(model)["encoder.layers.0.ffn.0.inner_slot"]
    seen, shown = [], [batch(0), batch(1)]
    float_ones = Ternary(activations=False).attach(tiny(), context())
    hook = slots(float_ones)["encoder.layers.0.ffn.0.inner_slot"].register_forward_pre_hook(
        lambda _, args: seen.append(args[0].detach())
    )
    with torch.no_grad():
        for each in shown:
            float_ones(**each)
    hook.remove()
    real = torch.cat([x[each["attention_mask"].bool()] for x, each in zip(seen, shown, strict=True)])
    assert inner.quantizer.ends.tolist() == [pytest.approx(real.min().item()), pytest.approx(real.max().item())]


def test_activations_end_as_plain_quantizers_or_stay_float():
    method = Ternary()
    model = trained(method, tiny())
    bake(model)
    made = method.finish(model, context())
    assert made.blueprint.activation_bits == 8
    assert all(type(found) is ActivationQuantizer for found in quantizers(made).values())
    plain = Ternary(activations=False).attach(tiny(), context())
    assert plain.blueprint.activation_bits is None


def test_terms_and_their_weights():
    terms = Ternary(hidden_states=0.5).objectives(context())
    assert [(term.name, term.weight) for term in terms] == [
        ("logits", 1.0),
        ("hidden_states", 0.5),
        ("attention_scores", 1.0),
    ]
    assert (terms[0].loss, terms[0].temperature) == ("ce", 1.0)
    assert all(term.needs_teacher for term in terms)
    assert [term.name for term in Ternary(attention_scores=0).objectives(context())] == ["logits", "hidden_states"]
    assert Ternary.supervises
    with pytest.raises(ValidationError, match="logits=0 must not go with"):
        Ternary(logits=0, hidden_states=0, attention_scores=0)

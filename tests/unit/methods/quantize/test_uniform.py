"""Few values a block, only the asked weights change, and what is loaded is what was made."""

import pytest
import torch
from pydantic import ValidationError

from bertpress.artifact import packing
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.methods.base import Context
from bertpress.methods.quantize.uniform import Uniform

CONTEXT = Context(task=None, tokenizer=None, seed=0)


def tiny(kind="sequence", **head):
    torch.manual_seed(1)
    shape = uniform(layers=2, hidden_size=32, heads=2, ffn=48, vocabulary=64, head=HeadSpec(kind=kind, **head))
    return build_model(shape)


def changed(before, after):
    weights = dict(after.unique_weights())
    return {name for name, weight in before.unique_weights() if not torch.equal(weight, weights[name])}


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(("granularity", "units"), [("tensor", 1), ("channel", 48), ("group", 48 * 4)])
def test_at_most_2_to_the_bits_values_a_block(bits, granularity, units):
    made = Uniform(bits=bits, granularity=granularity, group=8).finish(tiny(), CONTEXT)
    weight = made.get_parameter("encoder.layers.0.ffn.0.inner.weight").detach()
    for block in weight.reshape(units, -1):
        assert block.unique().numel() <= 2**bits - 1
    assert weight.unique().numel() > 2**bits or granularity == "tensor"


@pytest.mark.parametrize("options", [{}, {"symmetric": False}, {"fit": "mse"}, {"granularity": "group", "group": 16}])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_file_holds_what_was_made(options, bits, tmp_path):
    made = Uniform(bits=bits, embedding_bits=4, **options).finish(tiny(), CONTEXT)
    packing.write(tmp_path / "model.safetensors", made.state_dict(), made.storage)
    state, storage = packing.read(tmp_path / "model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())
    assert storage.keys() == made.storage.keys()


def test_bits_of_each_table_are_its_own():
    model = tiny()
    tables = {f"encoder.embeddings.{name}.weight" for name in ("word", "position", "segment")}
    assert changed(model, Uniform(bits=32).finish(model, CONTEXT)) == tables
    assert not changed(model, Uniform(bits=32, embedding_bits=32).finish(model, CONTEXT))
    made = Uniform(bits=32, embedding_bits=4, position_bits=2, segment_bits=32).finish(model, CONTEXT)
    assert changed(model, made) == tables - {"encoder.embeddings.segment.weight"}
    widths = {name.split(".")[2]: stored.codecs[0].bits for name, stored in made.storage.items()}
    assert widths == {"word": 4, "position": 2}
    row = dict(made.unique_weights())["encoder.embeddings.position.weight"][3]
    assert row.unique().numel() <= 3


def test_a_lookup_needs_the_scale_of_its_row_alone():
    made = Uniform().finish(tiny(), CONTEXT)
    stored = made.storage["encoder.embeddings.word.weight"]
    assert stored.parts["scale"].shape == (64, 1)
    codes = stored.encode(made.encoder.embeddings.word.weight).parts["values"][7].float()
    row = torch.where(codes > 127, codes - 255, codes) * stored.parts["scale"][7]
    assert torch.equal(row, made.encoder.embeddings.word.weight[7])


def test_a_tied_decoder_reads_the_quantized_table():
    made = Uniform(embedding_bits=2).finish(tiny("masked_lm", activation="gelu"), CONTEXT)
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        logits = made(ids).logits
        made.encoder.embeddings.word.weight[9] = 0
        assert not torch.equal(made(ids).logits[..., 9], logits[..., 9])
    assert "encoder.embeddings.word.weight" in made.storage


def test_the_source_stays_and_its_plan_too():
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Uniform(bits=2).finish(model, CONTEXT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.storage == {}


def test_a_fitted_range_has_no_zero_point():
    with pytest.raises(ValidationError, match="fit=mse must go with symmetric=true"):
        Uniform(fit="mse", symmetric=False)

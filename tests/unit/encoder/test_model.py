"""The encoder's promises: padding and batch mates change nothing, capture changes nothing, ties own no weight."""

import pytest
import torch
from torch import nn
from transformers import modeling_utils

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import BertpressForSequenceClassification, build_model
from bertpress.encoder.slots import Tape

IDS = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(2))
MASK = (torch.arange(9) < torch.tensor([[9], [5], [1]])).long()
KINDS = ["sequence", "token", "span", "masked_lm", "embedding"]


def tiny(kind="sequence", **head):
    torch.manual_seed(0)
    head = HeadSpec(kind=kind, labels=3, **head)
    return build_model(uniform(layers=2, hidden_size=16, heads=4, ffn=24, vocabulary=60, head=head))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_pads_and_batch_mates_change_nothing(kind, pooling):
    model = tiny(kind, pooling=pooling)
    noise = torch.where(MASK.bool(), IDS, torch.randint(5, 60, IDS.shape))
    with torch.no_grad():
        together, other_pads = model(IDS, MASK).logits, model(noise, MASK).logits
        for i, length in enumerate(MASK.sum(1).tolist()):
            alone = model(IDS[i : i + 1, :length]).logits[0]
            for batch in (together, other_pads):
                mine = batch[i, :length] if alone.dim() == 2 else batch[i]
                torch.testing.assert_close(mine, alone, atol=1e-5, rtol=0)


def test_a_row_of_pads_alone_gives_numbers():
    with torch.no_grad():
        assert tiny()(IDS, torch.zeros_like(MASK)).logits.isfinite().all()


def test_capture_changes_nothing_and_holds_what_it_says():
    model = tiny()
    with torch.no_grad():
        plain, full = model(IDS, MASK), model(IDS, MASK, capture=Tape.NAMES)
    torch.testing.assert_close(plain.logits, full.logits, atol=1e-6, rtol=0)
    assert plain.captured is None
    taken = full.captured
    assert len(taken["hidden_states"]) == 3
    assert torch.equal(taken["hidden_states"][-1], full.last_hidden_state)
    for maps, scores, queries, keys in zip(
        *(taken[n] for n in ("attentions", "scores", "queries", "keys")), strict=True
    ):
        assert maps.shape == (3, 4, 9, 9)
        torch.testing.assert_close(maps.sum(-1), torch.ones(3, 4, 9))
        assert (maps[1, :, :, 5:] == 0).all()
        torch.testing.assert_close(scores[0], queries[0] @ keys[0].transpose(-1, -2) / 2)
    with pytest.raises(ValueError, match="must be among"):
        model(IDS, capture=frozenset({"dreams"}))


def test_what_matrices_give_is_taken_before_anything_is_overwritten():
    model = tiny()
    names = {"hidden_states", "attentions", "values", "contexts", "attention_outputs", "ffn_inner", "ffn_outer"}
    with torch.no_grad():
        taken = model(IDS, MASK, capture=frozenset(names)).captured
    with_gradient = model(IDS, MASK, capture=frozenset(names)).captured
    assert all(torch.equal(a, b) for name in names for a, b in zip(taken[name], with_gradient[name], strict=True))
    assert {name: len(found) for name, found in taken.items()} == dict.fromkeys(names, 2) | {"hidden_states": 3}
    for i, layer in enumerate(model.encoder.layers):
        unit, network = layer.attention, layer.ffn[0]
        context = taken["attentions"][i] @ taken["values"][i]
        torch.testing.assert_close(taken["contexts"][i], context)
        output = unit.output(context.transpose(1, 2).flatten(2))
        torch.testing.assert_close(taken["attention_outputs"][i], output)
        attended = unit.norm(output + taken["hidden_states"][i])
        torch.testing.assert_close(taken["ffn_inner"][i], network.inner(attended))
        outer = network.outer(nn.functional.gelu(network.inner(attended)))
        torch.testing.assert_close(taken["ffn_outer"][i], outer)
        torch.testing.assert_close(taken["hidden_states"][i + 1], network.norm(outer + attended))


def test_the_axes_of_tokens_are_those_that_grow_with_the_text():
    model = tiny()
    with torch.no_grad():
        long, short = (model(IDS[:, :n], capture=Tape.NAMES).captured for n in (9, 7))
    assert not long.pop("exits")  # it has none
    for name in long:
        shape = [7 if axis in Tape.TOKEN_AXES[name] else size for axis, size in enumerate(long[name][0].shape)]
        assert list(short[name][0].shape) == shape, name


def test_tied_decoder_follows_a_transform_of_the_table():
    model = tiny("masked_lm")
    names = [name for name, _ in model.unique_weights()]
    assert not [name for name in names if name.startswith("head.decoder")]

    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    with torch.no_grad():
        before = model(IDS).last_hidden_state
        nn.utils.parametrize.register_parametrization(model.encoder.embeddings.word, "weight", Double())
        out = model(IDS)
        table = model.encoder.embeddings.word.weight
        x = model.head.norm(nn.functional.tanh(model.head.dense(out.last_hidden_state)))
        torch.testing.assert_close(out.logits, x @ table.t() + model.head.bias)
    assert not torch.equal(before, out.last_hidden_state)


def test_the_layer_plan_decides_what_runs():
    model = tiny()
    with torch.no_grad():
        model.encoder.plan = lambda encoder: iter([])
        embedded = model(IDS, capture=frozenset({"hidden_states"}))
        assert torch.equal(embedded.last_hidden_state, embedded.hidden_states[0])
        model.encoder.plan = lambda encoder: iter([encoder.layers[1], encoder.layers[1]])
        assert len(model(IDS, output_hidden_states=True).hidden_states) == 3


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        ("sequence", torch.tensor([0, 2, 1]), lambda z, y: nn.functional.cross_entropy(z, y)),
        ("token", torch.full((3, 9), 2), lambda z, y: nn.functional.cross_entropy(z.flatten(0, 1), y.flatten())),
    ],
)
def test_losses_for_generic_callers(kind, labels, expected):
    out = tiny(kind)(IDS, MASK, labels=labels)
    torch.testing.assert_close(out.loss, expected(out.logits, labels))


def test_span_loss_ignores_answers_outside():
    model = tiny("span")
    inside = model(IDS[:1], start_positions=torch.tensor([1]), end_positions=torch.tensor([2])).loss
    both = model(IDS[[0, 0]], start_positions=torch.tensor([1, 99]), end_positions=torch.tensor([2, 99])).loss
    torch.testing.assert_close(inside, both)


def test_save_and_reload_is_bit_for_bit(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    again = BertpressForSequenceClassification.from_pretrained(tmp_path)
    assert again.blueprint == model.blueprint
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    assert not again.training


def test_bfloat16_autocast_with_pads_stays_finite():
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert tiny()(IDS, MASK).logits.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_finds_nothing_odd_when_tracing_looks_at_all_of_a_model(kind, monkeypatch):
    said = []
    monkeypatch.setattr(modeling_utils.logger, "warning_once", said.append)
    assert callable(tiny(kind).loss_function)
    assert said == []

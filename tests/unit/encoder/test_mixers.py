"""LSTMs equal torch's on packed sequences, convolutions brute force; pads change nothing; counts equal the modules."""

import pytest
import torch
import torch.nn.functional as F
from mixed_students import ATTENTION, CELL, CONVOLUTION, LSTM, WIDE, student, students
from pydantic import ValidationError
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bertpress.encoder.attention_masks import additive_mask
from bertpress.encoder.blueprint import (
    NO_HEADS,
    BottleneckSpec,
    CellSpec,
    ConvolutionSpec,
    HeadSpec,
    LayerSpec,
    ShorteningSpec,
)
from bertpress.encoder.heads import apart, pool
from bertpress.encoder.mixer_specs import CONVOLUTIONS, OPERATIONS
from bertpress.encoder.mixers import Edge, neighbours, turned
from bertpress.encoder.model import BertpressConfig
from bertpress.encoder.slots import Tape
from bertpress.encoder.surgery import keep_hidden, keep_layers, share
from bertpress.errors import ModelError
from bertpress.export.parity import probes
from bertpress.export.transformers import to_transformers
from bertpress.measure.components import COMPONENTS, counted_macs, record, replay

LENGTHS = torch.tensor([9, 6, 1, 4])
REAL = (torch.arange(9) < LENGTHS[:, None]).long()
X = torch.randn(4, 9, 16, generator=torch.Generator().manual_seed(0))


def unit(layer):
    return student(layer).encoder.layers[0].mixer


@torch.no_grad()
def test_an_lstm_equals_torchs_on_packed_sequences():
    ours = unit(LSTM)
    theirs = nn.LSTM(16, 8, batch_first=True, bidirectional=True)
    for direction, suffix in ((ours.ahead, ""), (ours.back, "_reverse")):
        getattr(theirs, f"weight_ih_l0{suffix}").copy_(direction.input.weight)
        getattr(theirs, f"weight_hh_l0{suffix}").copy_(direction.recurrent.weight)
        getattr(theirs, f"bias_ih_l0{suffix}").copy_(direction.input.bias)
        getattr(theirs, f"bias_hh_l0{suffix}").zero_()
    packed, (last, _) = theirs(pack_padded_sequence(X, LENGTHS, batch_first=True, enforce_sorted=False))
    expected = pad_packed_sequence(packed, batch_first=True)[0]
    found = ours(X, additive_mask(REAL, X.dtype))
    torch.testing.assert_close(found[REAL.bool()], expected[REAL.bool()], atol=1e-6, rtol=0)
    torch.testing.assert_close(pool(found, REAL, "ends"), torch.cat([last[0], last[1]], -1), atol=1e-6, rtol=0)


@torch.no_grad()
def test_without_a_mask_all_tokens_are_real():
    ours, every = unit(LSTM), torch.ones_like(REAL)
    found = ours(X, None)
    torch.testing.assert_close(found, ours(X, (1.0 - every[:, None, None].float()) * -1e9), atol=1e-6, rtol=0)
    torch.testing.assert_close(pool(found, None, "ends"), pool(found, every, "ends"), atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (5, 2), (3, 4)])
@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_a_convolution_equals_the_sum_over_its_kernel(kernel, dilation, tokens):
    spec = ConvolutionSpec(kind="convolution", kernel=kernel, dilation=dilation, residual=False, norm="none")
    ours = unit(LayerSpec(attention=NO_HEADS, mixer=spec, ffn=(), activation="tanh"))
    x = X[:, :tokens]
    expected = ours.dense.bias.expand(4, tokens, 16).clone()
    for out in range(tokens):
        for tap in range(kernel):
            at = out + (tap - kernel // 2) * dilation
            if 0 <= at < tokens:
                expected[:, out] += x[:, at] @ ours.dense.weight[:, tap * 16 : (tap + 1) * 16].t()
    torch.testing.assert_close(ours(x, None), expected.tanh(), atol=1e-5, rtol=0)
    weight = ours.dense.weight.unflatten(1, (kernel, 16)).transpose(1, 2)
    theirs = F.conv1d(x.transpose(1, 2), weight, ours.dense.bias, padding="same", dilation=dilation)
    torch.testing.assert_close(ours(x, None), theirs.transpose(1, 2).tanh(), atol=1e-5, rtol=0)


def one_operation(operation, x, edge):
    """(1, tokens, 16) by torch's own layers, with zeros beyond both ends."""
    channels = x.transpose(1, 2)
    if operation in CONVOLUTIONS:
        kernel, dilation = CONVOLUTIONS[operation]
        weight = edge.dense.weight.unflatten(1, (kernel, 16)).transpose(1, 2)
        return F.conv1d(channels, weight, edge.dense.bias, padding="same", dilation=dilation).relu().transpose(1, 2)
    pool = {"maximum3": F.max_pool1d, "average3": F.avg_pool1d}.get(operation)
    return x if pool is None else pool(F.pad(channels, (1, 1)), 3, 1).transpose(1, 2)


@torch.no_grad()
@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each != "zero"])
@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_each_operation_of_a_cell_equals_torchs(operation, tokens):
    torch.manual_seed(0)
    edge, x = Edge(operation, 16, "relu"), X[:, :tokens]
    torch.testing.assert_close(edge(x), one_operation(operation, x, edge), atol=1e-5, rtol=0)


def test_a_dilated_convolution_multiplies_every_other_token():
    edge, x = Edge("dilated3", 1, "none"), torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).reshape(1, 5, 1)
    edge.dense.weight.data = torch.tensor([[100.0, 10.0, 1.0]])
    edge.dense.bias.data.zero_()
    assert edge(x).flatten().tolist() == [14, 28, 156, 280, 560]  # a morphological one would take the largest sum


@torch.no_grad()
def test_cells_by_hand():
    """Every cell reads the outputs of both layers before it; the embeddings stand in for what is missing."""
    model = student(CELL, WIDE, CELL)
    ids = torch.randint(5, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    tape = Tape(frozenset({"hidden_states"}))
    model.encoder(ids, torch.tensor([[1] * 9, [1] * 6 + [0] * 3]), None, tape)
    states = tape.captured()["hidden_states"]
    for number, before, x in ((0, 0, 0), (2, 1, 2)):
        cell = model.encoder.layers[number].mixer
        for row, length in enumerate((9, 6)):
            seen = [states[i][row : row + 1, :length] for i in (before, x)]
            for node, operations in enumerate(CELL.mixer.edges):
                edges = [
                    one_operation(operation, state, cell.edges[f"{node}_{i}"])
                    for i, (operation, state) in enumerate(zip(operations, seen, strict=True))
                    if operation != "zero"
                ]
                seen.append(torch.stack(edges).sum(0))
            shares = cell.shares.exp() / cell.shares.exp().sum()
            expected = cell.norm(seen[1] + sum(shares[i] * seen[2 + i] for i in range(3)))
            torch.testing.assert_close(states[number + 1][row : row + 1, :length], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_cell_of_zeros_hands_the_text_on():
    zeros = CellSpec(kind="cell", edges=(("zero",) * 2, ("zero",) * 3))
    cell = unit(LayerSpec(attention=NO_HEADS, mixer=zeros, ffn=()))
    assert set(dict(cell.named_parameters())) == {"shares", "norm.weight", "norm.bias"}
    torch.testing.assert_close(cell(X, None, -X), cell.norm(X), atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("tokens", range(1, 14))
def test_a_shortened_sequence_comes_back_as_long_as_it_was(stride, tokens):
    model = student(ATTENTION, shortening=ShorteningSpec(stride=stride))
    ours, x = model.encoder.shortening, torch.randn(2, tokens, 16)
    short, _ = ours.shorten(x, None)
    assert short.shape == (2, -(-tokens // stride), 16)
    down = ours.down.weight.unflatten(1, (stride, 16)).transpose(1, 2)
    padded = F.pad(x, (0, 0, 0, -tokens % stride)).transpose(1, 2)
    torch.testing.assert_close(
        short, F.conv1d(padded, down, ours.down.bias, stride=stride).transpose(1, 2), atol=1e-5, rtol=0
    )
    up = ours.up.weight.unflatten(0, (stride, 16)).permute(2, 1, 0)
    back = F.conv_transpose1d(short.transpose(1, 2), up, stride=stride).transpose(1, 2)
    expected = ours.norm(x + back[:, :tokens] + ours.up.bias.unflatten(0, (stride, 16)).repeat(20, 1)[:tokens])
    torch.testing.assert_close(ours.restore(short, x), expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", students())
def test_pads_change_nothing(name):
    model = students()[name]
    for batch in probes(model):
        together = model(**batch).logits
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            alone = model(**{key: value[row : row + 1, :length] for key, value in batch.items()}).logits[0]
            expected = together[row, :length] if together.ndim == 3 else together[row]
            torch.testing.assert_close(alone, expected, atol=1e-6, rtol=0)
        other = {**batch, "input_ids": torch.where(batch["attention_mask"] == 1, batch["input_ids"], 7)}
        found = model(**other).logits  # ids of pads do not matter either
        real = batch["attention_mask"].bool() if found.ndim == 3 else slice(None)
        torch.testing.assert_close(found[real], together[real], atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_maximum_of_convolutions_sees_a_phrase_wherever_it_stands():
    model = student(CONVOLUTION, CONVOLUTION, pooling="max", dense=False)
    phrase, filler = [21, 22, 23, 24, 25], 9
    texts = torch.full((3, 20), filler)
    for row, start in enumerate((4, 7, 11)):
        texts[row, start : start + 5] = torch.tensor(phrase)
    logits = model(texts, torch.ones_like(texts)).logits
    torch.testing.assert_close(logits, logits[:1].expand(3, -1), atol=1e-6, rtol=0)
    assert (model(torch.full((1, 20), filler)).logits - logits[:1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", students())
def test_parameters_and_multiply_accumulates_are_those_of_the_modules(name):
    model = students()[name]
    assert model.blueprint.total_parameters == sum(weight.numel() for _, weight in model.unique_weights())
    inputs = {"input_ids": torch.full((1, 11), 7), "attention_mask": torch.ones(1, 11, dtype=torch.long)}
    calls, counted = record(model, inputs), model.blueprint.macs(11)
    recurrent = 0  # torch's counter knows no LSTM
    for layer in model.encoder.layers:
        if layer.spec.mixer and layer.spec.mixer.kind == "lstm":
            weights = (w for w in layer.mixer.parameters() if w.ndim == 2)
            tokens = 3 if model.blueprint.shortening else 22 if model.blueprint.head.siamese else 11
            recurrent += tokens * sum(weight.numel() for weight in weights)
    for component in COMPONENTS:
        found = counted_macs(lambda component=component: replay(calls[component]))
        assert found + (recurrent if component == "mixer" else 0) == counted[component], component


def test_four_times_shorter_attention_costs_a_sixteenth():
    long, short = student(ATTENTION), student(ATTENTION, shortening=ShorteningSpec(stride=4))
    before, after = (model.blueprint.macs(128) for model in (long, short))
    assert before["attention"] == 16 * after["attention"]
    assert before["ffn"] == 4 * after["ffn"]


def test_the_segments_of_a_pair_are_left_aligned():
    ids = torch.tensor([[2, 11, 3, 21, 22, 3, 0], [2, 3, 31, 3, 0, 0, 0], [2, 11, 12, 3, 0, 0, 0]])
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0, 0], [0] * 7])
    found, mask = apart(ids, (ids > 0).long(), segments, pad_id=0)
    assert found.tolist() == [
        [2, 11, 3, 0, 0, 0, 0],
        [2, 3, 0, 0, 0, 0, 0],
        [2, 11, 12, 3, 0, 0, 0],
        [21, 22, 3, 0, 0, 0, 0],
        [31, 3, 0, 0, 0, 0, 0],
        [0] * 7,
    ]
    assert mask.sum(1).tolist() == [3, 2, 4, 3, 2, 1]  # a text without tokens is one pad


@torch.no_grad()
def test_a_siamese_model_compares_what_it_reads_apart():
    model = student(LSTM, pooling="ends", dense=False, siamese=True)
    a, b = torch.tensor([[2, 11, 12, 3]]), torch.tensor([[21, 22, 3]])
    h1, h2 = (pool(model.encoder(text, None, None, Tape())[0], None, "ends") for text in (a, b))
    expected = model.head.classifier(torch.cat([h1, h2, h1 * h2, (h1 - h2).abs()], -1))
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    found = model(torch.cat([a, b], 1), token_type_ids=segments).logits
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_layers_of_any_kind_can_be_dropped_and_shared():
    model = student(LSTM, WIDE, ATTENTION, LSTM)
    ids = torch.randint(5, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    cut = keep_layers(model, [1, 3])
    assert [layer.mixer.kind for layer in cut.blueprint.layers] == ["convolution", "lstm"]
    model.encoder.plan = lambda encoder: (encoder.layers[i] for i in (1, 3))
    torch.testing.assert_close(cut(ids).logits, model(ids).logits, atol=0, rtol=0)
    shared = share(student(WIDE, WIDE), {1: 0})
    assert shared.blueprint.total_parameters == sum(weight.numel() for _, weight in shared.unique_weights())
    shared.encoder.plan = lambda encoder: (encoder.layers[i] for i in (0, 0))
    twice = shared(ids).logits
    shared.encoder.plan = type(shared.encoder)(shared.blueprint).plan
    torch.testing.assert_close(shared(ids).logits, twice, atol=0, rtol=0)
    with pytest.raises(ValueError, match=r"layers \[1\]: without mixer.norm.weight, which layer 0 has"):
        share(student(WIDE, LSTM), {1: 0}, unit="attention")


def test_what_cannot_be_cut_or_said_is_refused():
    with pytest.raises(ValueError, match="hidden dimensions that convolutions or LSTMs read cannot be cut"):
        keep_hidden(student(LSTM), range(8))
    with pytest.raises(ValueError, match="under a siamese head or one with a width of its own cannot be cut"):
        keep_hidden(student(ATTENTION, dense_size=8), range(8))
    with pytest.raises(ModelError, match="layers.0.mixer=lstm has no place in a plain bert config"):
        to_transformers(student(LSTM))
    with pytest.raises(ModelError, match="shortening: a plain bert config has no convolutions"):
        to_transformers(student(ATTENTION, shortening=ShorteningSpec()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConvolutionSpec(kind="convolution", kernel=4), "kernel=4 must be odd"),
        (lambda: CellSpec(kind="cell", edges=(("skip",),)), "edges.0 must have 2 operations, not 1"),
        (lambda: LayerSpec(attention=NO_HEADS, ffn=()), r"ffn=\(\) must go with a mixer"),
        (lambda: LayerSpec(**{**ATTENTION.model_dump(), "mixer": LSTM.mixer}), "mixer=lstm must go without heads"),
        (lambda: LayerSpec(**{**WIDE.model_dump(), "bottleneck": BottleneckSpec(size=4)}), "without heads and bottle"),
        (lambda: HeadSpec(kind="token", siamese=True), "siamese=true must go with kind=sequence, not token"),
        (lambda: student(LSTM).blueprint.replace(hidden_size=15), "hidden_size=15 must be even"),
    ],
)
def test_impossible_shapes_are_refused(build, message):
    with pytest.raises(ValidationError, match=message):
        build()


@pytest.mark.parametrize("name", students())
def test_the_blueprint_survives_config_json(name):
    blueprint = students()[name].blueprint
    assert BertpressConfig(**BertpressConfig(blueprint).to_dict()).shape == blueprint


def test_turning_twice_changes_nothing():
    mask = additive_mask(REAL, X.dtype)
    assert torch.equal(turned(turned(X, mask), mask), X)
    assert turned(X, mask)[1, :6].equal(X[1, :6].flip(0))
    assert neighbours(X[:, :1], 3, left=1).shape == (4, 1, 48)

"""A weight becomes at most K subvectors, which learn by the mean gradient of their members."""

import pytest
import torch

from bertpress.artifact.codecs import spec_of
from bertpress.artifact.codecs.product import lookup
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.methods import graphs
from bertpress.methods.kmeans import kmeans
from bertpress.methods.product import ProductCode, centroid_gradients, pays, product_code, tune

SHAPE = uniform(layers=1, hidden_size=16, heads=2, ffn=24, vocabulary=40, head=HeadSpec(kind="sequence", labels=2))


def weight_of(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def code(weight, dim=4, count=16, **options):
    return product_code(weight, dim, count, torch.Generator().manual_seed(0), **options)


def subvectors(weight, dim):
    return len(weight.reshape(-1, dim).unique(dim=0))


@pytest.mark.parametrize(("dim", "count"), [(1, 2), (4, 16), (8, 256), (5, 7)])
@pytest.mark.parametrize("rounded", [False, True])
def test_at_most_k_subvectors_and_the_file_holds_them(dim, count, rounded):
    weight = weight_of(32, 40)
    found = code(weight, dim, count)
    found = found.rounded() if rounded else found
    made, stored = found.weight, found.stored()
    assert subvectors(made, dim) <= count
    packed = stored.encode(made)
    assert torch.equal(stored.decode(packed, spec_of(made)), made)
    table = min(count, weight.numel() // dim) * dim * (1 if rounded else 4) + 4 * rounded
    assert sum(part.nbytes for part in packed.parts.values()) == weight.numel() // dim + table


def test_rounded_centroids_are_within_half_a_step():
    found = code(weight_of(32, 40))
    step = found.centroids.abs().max() / 127
    assert bool(((found.rounded().weight - found.weight).abs() <= 0.5001 * step).all())


def test_planted_subvectors_are_found():
    table = weight_of(16, 4)
    codes = torch.randint(0, 16, (30, 10), generator=torch.Generator().manual_seed(1))
    weight = table[codes].reshape(30, 40)
    assert torch.equal(code(weight).weight, weight)


def test_zeros_of_a_mask_stay_and_cost_a_bit_and_the_odd_zero_is_chance():
    weight = weight_of(40, 40)
    pruned = weight * (weight.abs() > 0.7)
    found = code(pruned)
    made = found.weight
    assert torch.equal(made == 0, pruned == 0)
    packed = found.stored().encode(made)
    assert packed.parts["mask"].nbytes == 200
    assert torch.equal(found.stored().decode(packed, spec_of(made)), made)
    # the zeros do not pull the centroids towards them
    blind = kmeans(pruned.reshape(-1, 4), 16, torch.Generator().manual_seed(0))
    cut = lookup(blind.centroids, blind.codes, (40, 40), pruned != 0)
    assert (made - pruned).square().sum() < 0.8 * (cut - pruned).square().sum()
    weight[3, 3] = 0
    assert code(weight).kept is None


def test_inputs_of_more_energy_are_closer():
    weight, energy = weight_of(64, 16), torch.ones(16)
    energy[::4] = 100.0
    plain, weighed = ((code(weight, energy=e).weight - weight).square() for e in (None, energy))
    assert weighed[:, ::4].sum() < 0.5 * plain[:, ::4].sum()
    assert (weighed * energy).sum() < (plain * energy).sum()


def test_energy_of_zero_is_as_none():
    weight = weight_of(20, 16)
    dead = code(weight, energy=torch.zeros(16))
    assert torch.equal(dead.codes, code(weight).codes)


def test_mean_gradients_by_hand():
    gradient = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 9.0]])
    codes = torch.tensor([0, 2, 2, 0], dtype=torch.uint8)
    made = ProductCode(torch.zeros(3, 2), codes, (2, 4))
    assert made.mean_gradient(gradient).tolist() == [[4.0, 5.5], [0, 0], [4.0, 5.0]]
    kept = torch.tensor([[True, True, False, True], [True, False, False, True]])
    made = ProductCode(torch.zeros(3, 2), codes, (2, 4), kept)
    assert made.mean_gradient(gradient).tolist() == [[1.0, 5.5], [0, 0], [5.0, 4.0]]


def tiny():
    torch.manual_seed(1)
    return build_model(SHAPE)


def batches(count=2):
    mask = (torch.arange(7) < torch.tensor([[7], [4], [2]])).long()
    return [
        {"input_ids": weight_of(3, 7, seed=i).mul(99).long().remainder(35) + 5, "attention_mask": mask}
        for i in range(count)
    ]


def test_tuning_moves_centroids_alone_and_lowers_the_loss():
    model, data = tiny(), batches()
    names = ["encoder.layers.0.ffn.0.inner.weight", "encoder.embeddings.word.weight"]
    with torch.no_grad():
        targets = [model(**batch).logits for batch in data]
    codes = {name: code(model.get_parameter(name).detach(), count=6) for name in names}
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).copy_(codes[name].weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def loss(number, logits):
        return (logits - targets[number]).square().sum()

    def total():
        with torch.no_grad():
            return sum(float(loss(i, model(**batch).logits)) for i, batch in enumerate(data))

    start = total()
    tuned = tune(model, codes, data, loss, steps=30, learning_rate=3e-3)
    assert total() < 0.5 * start
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in names), name
        if name in names:
            assert torch.equal(tensor, tuned[name].weight)
            assert torch.equal(tuned[name].codes, codes[name].codes)
            assert subvectors(tensor, 4) <= 6
    assert all(weight.grad is None for weight in model.parameters())


def test_tuning_follows_the_mean_gradient():
    model, (batch,) = tiny(), batches(1)
    name = "encoder.layers.0.attention.query.weight"
    weight = model.get_parameter(name)
    found = code(weight.detach(), count=3)
    with torch.no_grad():
        weight.copy_(found.weight)
    gradient = torch.autograd.grad(model(**batch).logits[:, 0].sum(), weight)[0]
    tuned = tune(model, {name: found}, [batch], lambda _, logits: logits[:, 0].sum(), steps=1, learning_rate=0.01)[name]
    direction = found.mean_gradient(gradient).sign()
    torch.testing.assert_close(tuned.centroids, found.centroids - 0.01 * direction, rtol=0, atol=1e-5)


def test_gradients_of_pieces_are_those_of_the_batch(monkeypatch):
    """Also of a loss that is no mean over examples."""
    model, (batch,) = tiny(), batches(1)
    names = ["encoder.embeddings.word.weight", "encoder.layers.0.ffn.0.inner.weight"]
    codes = {name: code(model.get_parameter(name).detach(), count=6) for name in names}
    seen = []
    model.register_forward_pre_hook(lambda _, args, named: seen.append(len(named["input_ids"])), with_kwargs=True)

    def gradients():
        return centroid_gradients(
            model, codes, batch, lambda logits: logits.flatten().logsumexp(0).square(), torch.float32
        )

    whole, count = gradients(), len(batch["input_ids"])
    assert seen == [count] == [3]
    seen.clear()
    each = batch["input_ids"].shape[1] * graphs.token_bytes(model.blueprint, graphs.ONCE)
    monkeypatch.setattr(graphs, "GRAPH_BYTES", 2 * each)
    cut = gradients()
    assert seen == 2 * ([2] * (count // 2) + [1])
    for name in names:
        assert whole[name].abs().max() > 0
        torch.testing.assert_close(cut[name], whole[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "dim", "count", "worth"),
    [
        ((768, 768), 4, 256, True),
        ((2, 384), 8, 256, False),  # a segment table is smaller than 256 centroids
        ((2, 384), 8, 16, True),
        ((64, 30), 4, 16, False),  # cannot be cut
        ((0, 8), 4, 16, False),
    ],
)
def test_what_is_worth_it(shape, dim, count, worth):
    assert pays(shape, dim, count) is worth

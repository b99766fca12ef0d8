"""Noach & Goldberg's factors: what each rule keeps, at full rank the model itself, the file as small as its factors."""

import json

import pytest
import short_training
import torch
from factored_models import SHAPES, multiplied
from uneven_models import albert_like, context, int8, mixed

from bertpress.artifact.packing import pack
from bertpress.encoder.factors import matrix
from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import factorize, keep_heads
from bertpress.errors import ModelError, RecipeError
from bertpress.export.transformers import to_transformers
from bertpress.methods.empty import cut_empty
from bertpress.methods.factorize.svd import Svd, linear_maps
from bertpress.methods.low_rank import largest_rank, nearest_product
from bertpress.methods.prune.block_movement import unit_of
from bertpress.methods.prune.magnitude import Magnitude
from bertpress.methods.quantize.qbert import block_by_name
from bertpress.methods.quantize.smooth import Smooth
from bertpress.methods.transform import bake
from bertpress.recipe import Recipe

IDS = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(9) < torch.tensor([[9], [5], [1]])).long()


def bert():
    return mixed(shapes=SHAPES)


def logits(model):
    with torch.no_grad():
        return model(IDS, MASK).logits


def made(model, **options):
    return Svd(**options).attach(model, context(model))


def sizes(model):
    """Numbers in the matrices of the layers, without biases."""
    return sum(
        weight.numel()
        for name, weight in model.unique_weights()
        if name.startswith("encoder.layers.") and ".norm." not in name and weight.ndim == 2
    )


def pruned(model, keep):
    method = Magnitude(keep=keep, begin=0.0, end=0.0, pooler=False)
    attached = method.attach(model, context(model))
    bake(attached)
    return method.finish(attached, context(model))


def test_at_full_rank_it_is_the_model():
    model = bert()
    weights = {key: matrix(linear).detach() for key, linear in linear_maps(model).items()}
    full = factorize(model, {key: nearest_product(weight, min(weight.shape)) for key, weight in weights.items()})
    assert all(full.blueprint.layers[i].rank(part) == min(weight.shape) for (i, part), weight in weights.items())
    torch.testing.assert_close(logits(full), logits(model), atol=1e-4, rtol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_each_matrix_becomes_the_nearest_product(weighted):
    model = bert()
    cut = made(model, rule="rank", rank=6, weighted=weighted)
    before, after = linear_maps(model), linear_maps(cut)
    for key, linear in before.items():
        whole, product = matrix(linear).detach(), matrix(after[key]).detach()
        assert cut.blueprint.layers[key[0]].rank(key[1]) == 6 <= largest_rank(whole.shape)
        values = torch.linalg.svdvals(whole.double())
        error, least = float((whole - product).square().sum()), float(values[6:].square().sum())
        assert error >= least * (1 - 1e-4)
        assert weighted or error == pytest.approx(least, rel=1e-4)
        assert torch.equal(after[key].bias, linear.bias)


def test_weighted_factors_give_nearer_outputs():
    model = bert()
    batch = context(model).batches(8)[0]
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True).hidden_states[1]
        errors = [
            float(
                (made(model, rank=8, weighted=w)(**batch, output_hidden_states=True).hidden_states[1] - expected).norm()
            )
            for w in (False, True)
        ]
    assert errors[1] < 0.9 * errors[0]


def test_one_rank_counts_as_the_formula_says():
    model = bert()
    cut = made(model, rule="rank", rank=5)
    shapes = [matrix(linear).shape for linear in linear_maps(model).values()]
    assert sizes(cut) == sum(5 * (m + n) for m, n in shapes)
    assert cut.blueprint.total_parameters == sum(weight.numel() for _, weight in cut.unique_weights())
    assert made(model, rank=5 / 48).blueprint == cut.blueprint  # a share of the hidden size


def test_matrices_stay_whole_where_factors_are_not_smaller():
    model = mixed(shapes=((12, 96), (1, 64)))
    cut = made(model, rule="rank", rank=8)
    assert cut.blueprint.layers[0].attention.ranks.query == 8
    assert cut.blueprint.layers[1].attention.ranks.query == 0  # 4 x 48: factors would be 8 x 52
    assert torch.equal(cut.encoder.layers[1].attention.query.weight, model.encoder.layers[1].attention.query.weight)
    assert made(model, rule="rank", rank=10_000).blueprint == model.blueprint


def test_published_ranks_give_the_published_sizes():
    """Rank 245: 59.4 % of BERT-base; rank 251: 60.5 %."""
    for rank, percent in ((245, 59.4), (251, 60.5)):
        layer = 4 * rank * (768 + 768) + 2 * rank * (768 + 3072)
        whole = 4 * 768 * 768 + 2 * 768 * 3072
        assert round(100 * (109_482_240 - 12 * (whole - layer)) / 109_482_240, 1) == pytest.approx(percent, abs=0.15)


def test_a_share_is_kept_of_every_matrix():
    model = bert()
    cut = made(model, rule="share", keep=0.5)
    for key, linear in linear_maps(model).items():
        m, n = matrix(linear).shape
        assert 0.5 * m * n - (m + n) < cut.blueprint.layers[key[0]].rank(key[1]) * (m + n) <= 0.5 * m * n


def test_so_much_of_the_energy_is_kept_of_every_matrix():
    model = bert()
    cut = made(model, rule="energy", energy=0.6, weighted=False)
    after = linear_maps(cut)
    for key, linear in linear_maps(model).items():
        rank = cut.blueprint.layers[key[0]].rank(key[1])
        energy = torch.linalg.svdvals(matrix(linear).detach().double()).square()
        share = energy.cumsum(0) / energy.sum()
        wanted = int((share < 0.6).sum()) + 1
        assert rank == (wanted if wanted <= largest_rank(matrix(linear).shape) else 0)
        assert torch.equal(after[key].bias, linear.bias)


def test_a_budget_holds_for_all_matrices_together():
    model = bert()
    whole = sum(matrix(linear).numel() for linear in linear_maps(model).values())
    for keep in (0.3, 0.6, 0.9):
        cut = made(model, rule="budget", keep=keep)
        assert keep * whole - 200 < sizes(cut) <= keep * whole
    with pytest.raises(RecipeError, match=r"factorize/svd: \d+ numbers are too few: rank 1 everywhere takes [\d,]+"):
        made(model, rule="budget", keep=0.01)


def test_the_setting_that_reproduces_the_model():
    model = bert()
    cut = Svd.noop().attach(model, context(model))
    assert cut.blueprint == model.blueprint
    assert torch.equal(logits(cut), logits(model))


def test_shared_layers_are_decomposed_once():
    cut = made(albert_like(), rank=6)
    assert [layer.attention.ranks.query for layer in cut.blueprint.layers] == [6, 6, 6]
    torch.testing.assert_close(logits(cut), logits(multiplied(cut)), atol=1e-5, rtol=0)


def test_factors_of_pruned_ones_are_left_alone_or_made_anew():
    model = pruned(made(bert(), rank=8), 0.5)
    assert made(model, rank=8).state_dict().keys() == model.state_dict().keys()
    same = made(model, rank=8)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in same.state_dict().items())
    smaller = made(model, rank=5, weighted=False)
    product, again = linear_maps(model)[0, "attention.query"], linear_maps(smaller)[0, "attention.query"]
    up, down = nearest_product(matrix(product).detach(), 5)
    assert torch.equal(again.up.weight, up)
    assert torch.equal(again.down.weight, down)


def test_the_densities_of_ranks_and_masks_multiply():
    """LadaBERT: the density of a matrix is r (m + n) / (m n) times what pruning keeps of both factors."""
    cut = pruned(made(bert(), rule="share", keep=0.5), 0.4)
    for (i, part), linear in linear_maps(bert()).items():
        (m, n), rank = matrix(linear).shape, cut.blueprint.layers[i].rank(part)
        factors = dict(linear_maps(cut)[i, part].named_parameters())
        left = sum(int((factors[f"{side}.weight"] != 0).sum()) for side in ("up", "down"))
        assert left / (m * n) == pytest.approx(rank * (m + n) / (m * n) * 0.4, abs=1 / (m * n))


def test_ladabert_is_svd_where_nothing_is_pruned_and_pruning_where_nothing_is_decomposed():
    model = bert()
    alone = made(model, rule="share", keep=0.6)
    both = pruned(alone, 1.0)
    assert all(torch.equal(tensor, alone.state_dict()[name]) for name, tensor in both.state_dict().items())
    sparse, both = pruned(model, 0.3), pruned(made(model, rule="share", keep=1.0), 0.3)
    assert all(torch.equal(tensor, sparse.state_dict()[name]) for name, tensor in both.state_dict().items())


def test_the_file_has_the_factors_and_loads_again(tmp_path):
    model = made(bert(), rank=6)
    model.save_pretrained(tmp_path / "dense")
    again = type(model).from_pretrained(tmp_path / "dense")
    assert again.blueprint == model.blueprint
    assert torch.equal(logits(again), logits(model))
    size = (tmp_path / "dense/model.safetensors").stat().st_size
    assert size == pytest.approx(4 * model.blueprint.total_parameters, rel=0.1)
    ranks = json.loads((tmp_path / "dense/config.json").read_text())["blueprint"]["layers"][0]
    assert ranks["attention"]["ranks"]["query"] == 6
    assert ranks["ffn_ranks"] == [{"inner": 6, "outer": 6}]


def test_back_to_transformers_is_refused_in_a_line():
    model = build_model(bert().blueprint.replace(layers=bert().blueprint.layers[:1]))
    with pytest.raises(
        ModelError, match=r"layers.0.attention.ranks.query=6 has no place in a plain bert config"
    ) as told:
        to_transformers(made(model, rank=6))
    assert "\n" not in str(told.value)


def test_what_cannot_be_factorized_is_refused_in_a_line():
    none = keep_heads(mixed(shapes=((4, 0),)), {0: ()})
    with pytest.raises(RecipeError, match="^factorize/svd: the model has neither heads nor feed-forward networks$"):
        made(none)
    with pytest.raises(RecipeError, match="^factorize/svd: matrices that read quantized activations cannot be"):
        made(int8(bert()))
    stages = [{"name": "integers", "use": ["quantize/int8"]}, {"name": "thin", "use": ["factorize/svd"]}]
    with pytest.raises(RecipeError, match="stage thin, factorize/svd: cannot follow quantize/int8"):
        Recipe.parse({"name": "test", "stages": stages}).check()


def test_maps_cannot_be_merged_into_factors():
    stages = [{"name": "thin", "use": ["factorize/svd"]}, {"name": "wide", "use": ["distill/wide_narrow"], "train": {}}]
    with pytest.raises(
        RecipeError, match="distill/wide_narrow: cannot follow factorize/svd, which leaves matrices that"
    ):
        Recipe.parse({"name": "test", "stages": stages}).check()


def test_methods_that_read_single_weights_find_the_factor_that_has_the_units():
    """Emptied heads and neurons are cut, and channels smoothed, without any other answer."""
    model = made(bert(), rank=6)
    with torch.no_grad():
        attention, network = model.encoder.layers[0].attention, model.encoder.layers[1].ffn[0]
        attention.value.up.weight[8:16] = 0  # nothing enters heads 2 and 3, nothing leaves head 11
        attention.output.down.weight[:, 44:] = 0
        network.inner.up.weight[:5] = 0
        network.outer.down.weight[:, 60:] = 0
    expected = logits(model)
    empty = cut_empty(model)
    assert empty.blueprint.layers[0].attention.heads == (0, 1, 4, 5, 6, 7, 8, 9, 10)
    assert empty.blueprint.layers[1].ffn == (55,)
    torch.testing.assert_close(logits(empty), expected, atol=1e-5, rtol=0)
    smoothed = Smooth().attach(model, context(model))
    torch.testing.assert_close(logits(smoothed), expected, atol=1e-5, rtol=0)
    assert not torch.equal(smoothed.encoder.layers[0].attention.query.down.weight, attention.query.down.weight)


@pytest.mark.parametrize(
    ("part", "block", "unit"),
    [
        ("attention.query.up", (4, 0), ("attention", (32, 32))),
        ("attention.query.down", (3, 0), ("attention", (32, 32))),
        ("attention.output.down", (6, 4), ("attention", (32, 32))),
        ("ffn.0.inner.up", (48, 0), ("ffn", (1, 0))),
        ("ffn.0.inner.down", (3, 0), None),
        ("ffn.0.outer.down", (3, 0), ("ffn", (0, 1))),
        ("ffn.0.outer.up", (24, 0), None),
    ],
)
def test_blocks_of_heads_and_neurons_lie_in_one_factor(part, block, unit):
    model = made(bert(), rank=6)
    name = f"encoder.layers.0.{part}.weight"
    assert unit_of(name, 32) == unit
    assert block_by_name(model.blueprint, name, model.get_parameter(name).shape, 2) == block


def test_a_mask_of_factors_stays_through_a_step_and_the_next_one_takes_their_product():
    model, zeros = short_training.tiny(layers=2), []

    def sides(model):
        factors = model.encoder.layers[1].ffn[0].inner
        return factors.up.weight, factors.down.weight

    for share, keep, rank in ((0.9, 0.8, 8), (0.6, 0.5, 5)):
        product = matrix(model.encoder.layers[1].ffn[0].inner).detach()
        thin = Svd(rule="share", keep=share, weighted=False).attach(model, short_training.context())
        assert thin.blueprint.layers[1].ffn_ranks[0].inner == rank
        start = [weight.detach().clone() for weight in sides(thin)]
        assert all(map(torch.equal, start, nearest_product(product, rank)))
        zeros.clear()
        model = short_training.train(
            thin,
            Magnitude(keep=keep, begin=0.0, end=0.0),
            short_training.context(),
            5,
            lambda step, model: zeros.append([weight == 0 for weight in sides(model)]),
        )
        assert len(zeros) == 5
        for i, (weight, begun) in enumerate(zip(sides(model), start, strict=True)):
            assert all(torch.equal(found[i], weight == 0) for found in zeros)
            assert int((weight != 0).sum()) == round(keep * weight.numel())
            assert not torch.equal(weight[weight != 0], begun[weight != 0])


def test_pruned_factors_take_a_bit_and_four_bytes_a_survivor():
    model = pruned(made(mixed(shapes=((12, 768),) * 2), rank=16), 0.3)
    tensors, _ = pack(model.state_dict(), model.storage)
    thin = [weight for key in linear_maps(model) for weight in thin_weights(model, key)]
    rest = sum(weight.numel() for _, weight in model.unique_weights()) - sum(weight.numel() for weight in thin)
    expected = 4 * rest + sum(weight.numel() / 8 + 4 * int((weight != 0).sum()) for weight in thin)
    assert sum(tensor.nbytes for tensor in tensors.values()) == pytest.approx(expected, rel=0.02)
    assert expected < 0.35 * 4 * made(mixed(shapes=((12, 768),) * 2), rank=16).blueprint.total_parameters + 4 * rest


def thin_weights(model, key):
    linear = linear_maps(model)[key]
    return [linear.up.weight, linear.down.weight] if model.blueprint.layers[key[0]].rank(key[1]) else [linear.weight]

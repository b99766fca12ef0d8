"""Outliers by their density, the others on few values: against the formula, a plain loop, and numbers by hand."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from bertpress.artifact import packing
from bertpress.artifact.header import inspect
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.methods.base import Context
from bertpress.methods.quantize.gobo import (
    Gobo,
    cluster,
    equal_population,
    fit_dictionary,
    picture,
    prefix_sums,
    reach,
    spread,
)

CONTEXT = Context(task=None, tokenizer=None, seed=0)
INNER = "encoder.layers.0.ffn.0.inner.weight"


def tiny(kind="sequence"):
    torch.manual_seed(1)
    shape = uniform(layers=2, hidden_size=32, heads=2, ffn=48, vocabulary=64, head=HeadSpec(kind=kind))
    return build_model(shape)


def drawn(count, std=0.04, seed=0, mean=0.0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * std + mean


def plain_loop(values, bits):
    """The algorithm with a distance matrix: codebooks, L1 errors and squared errors of its rounds."""
    values = np.sort(values.double().numpy())
    bounds = [i * len(values) // 2**bits for i in range(2**bits + 1)]
    centroids = np.array([values[a:b].mean() for a, b in pairwise(bounds)])
    rounds = []
    while True:
        distance = np.abs(values[:, None] - centroids)
        owner, nearest = distance.argmin(1), distance.min(1)
        rounds.append((centroids, nearest.sum(), (nearest**2).sum()))
        if len(rounds) > 1 and rounds[-1][1] >= rounds[-2][1]:
            return rounds
        members = [values[owner == i] for i in range(2**bits)]
        centroids = np.array([m.mean() if len(m) else c for m, c in zip(members, centroids, strict=True)])


@pytest.mark.parametrize("std", [1e-3, 0.04, 0.3, 3.0])
@pytest.mark.parametrize("log_density", [-4.0, -1.0, -8.0])
def test_outliers_are_those_of_too_small_a_log_density(std, log_density):
    weight = drawn(40_000, std, mean=std / 2)
    found = fit_dictionary(weight, 3, log_density)
    wide = weight.double()
    mean, sigma = float(wide.mean()), float(wide.std(correction=0))
    density = -((wide - mean) ** 2) / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))
    assert torch.equal(found.outliers(weight), density < log_density)
    assert (found.mean, found.std) == pytest.approx((mean, sigma))


def test_a_thousandth_of_usual_weights_and_more_of_wider_ones():
    assert math.erfc(reach(0.04, -4) / 0.04 / math.sqrt(2)) == pytest.approx(3.9e-4, rel=0.02)
    shares = [float(fit_dictionary(w, 3).outliers(w).float().mean()) for w in (drawn(100_000), 100 * drawn(100_000))]
    assert 1e-4 < shares[0] < 1e-3  # weights that were standardised first would all have the same share
    assert shares[1] > 20 * shares[0]


def test_where_the_density_crosses():
    # log density at the mean of a unit Gaussian is -0.9189, so -0.9189 - x^2 / 2 < -4 beyond 2.4823
    assert reach(1.0, -4) == pytest.approx(2.4823, abs=1e-4)
    assert reach(0.0, -4) == math.inf
    assert reach(30.0, -4) < 0


@pytest.mark.parametrize("bits", range(2, 9))
def test_regular_values_take_the_nearest_centroid_and_outliers_stay(bits):
    weight = drawn(5000).reshape(50, 100)
    weight[0, 0] = 0.9
    found = fit_dictionary(weight, bits)
    made, outliers = found.apply(weight), found.outliers(weight)
    assert made[0, 0] == torch.tensor(0.9)
    assert torch.equal(made[outliers], weight[outliers])
    assert made[~outliers].unique().numel() <= 2**bits == found.centroids.numel()
    assert torch.equal(found.centroids, found.centroids.sort().values)
    distance = (weight[~outliers].double()[:, None] - found.centroids.double()).abs()
    taken = (weight[~outliers].double() - made[~outliers].double()).abs()
    torch.testing.assert_close(taken, distance.min(1).values, atol=1e-9, rtol=0)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("seed", range(4))
def test_rounds_are_those_of_a_plain_loop(bits, seed):
    weight = torch.cat([drawn(900, 0.04, seed), drawn(300, 0.01, seed + 9, mean=0.05)])
    rounds = plain_loop(weight, bits)
    centroids, errors = cluster(np.sort(weight.numpy()), 2**bits)
    assert errors == pytest.approx([error for _, error, _ in rounds], rel=1e-5)
    np.testing.assert_allclose(centroids, rounds[-2][0], atol=1e-6)
    assert min(errors) == errors[-2] <= errors[0]  # the best codebook, not the last
    squares = [square for _, _, square in rounds]
    assert all(after <= before for before, after in pairwise(squares))


def test_the_error_can_rise_and_the_better_codebook_is_kept():
    """Worked by hand: a far value draws its mean away, which squares like and magnitudes do not."""
    values = np.array([0, 0, 0, 6, 6, 20], dtype=np.float32)
    # bins {0, 0, 0} and {6, 6, 20}: means 0 and 32/3; the midpoint 16/3 keeps them; error 14/3 + 14/3 + 28/3
    centroids, errors = cluster(values, 2)
    assert errors == pytest.approx([56 / 3, 56 / 3])
    np.testing.assert_allclose(centroids, [0, 32 / 3])
    raised = [
        errors
        for seed in range(200)
        for _, errors in [cluster(np.sort(drawn(40, 1, seed).exp().numpy()), 4)]
        if errors[-1] > errors[-2]
    ]
    assert raised  # it happens, and then the last codebook is not the one that is returned


def test_the_codebook_that_comes_back_has_the_least_error():
    for seed in range(50):
        values = np.sort(drawn(40, 1, seed).exp().numpy())
        centroids, errors = cluster(values, 4)
        again = np.abs(values[:, None].astype(float) - centroids).min(1).sum()
        assert again == pytest.approx(min(errors), rel=1e-5)


def test_bins_have_equal_population():
    values = np.array([1, 2, 3, 10, 20, 60, 70], dtype=np.float32)
    np.testing.assert_allclose(equal_population(values, prefix_sums(values), 3), [1.5, 6.5, 50])
    few = np.array([4, 9], dtype=np.float32)
    assert set(equal_population(few, prefix_sums(few), 8)) == {4, 9}


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize(
    "weight",
    [torch.zeros(3, 5), torch.full((7, 3), 0.1), torch.full((2, 2), -1e-30), torch.tensor([[0.3]])],
    ids=["zeros", "constant", "minute", "one"],
)
def test_degenerate_weights_stay_as_they_are(weight, bits):
    found = fit_dictionary(weight, bits)
    assert torch.equal(found.apply(weight), weight)
    assert not found.outliers(weight).any()
    assert found.centroids.shape == (2**bits,)
    assert found.centroids.isfinite().all()


def test_fewer_values_than_centroids():
    weight = torch.tensor([[0.1, -0.2, 0.3]])
    assert torch.equal(fit_dictionary(weight, 3).apply(weight), weight)


def test_so_wide_that_all_are_outliers():
    weight = drawn(100, 50.0)
    found = fit_dictionary(weight, 3)
    assert found.outliers(weight).all()
    assert torch.equal(found.apply(weight), weight)


def pruned(share, count=4000):
    """The smallest values put to zero."""
    weight = drawn(count)
    weight[weight.abs().argsort()[: round(share * count)]] = 0
    return weight


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("share", [0.04, 0.45, 0.9])
def test_zeros_of_a_pruned_matrix_stay_and_stay_out_of_the_clusters(bits, share):
    weight = pruned(share)
    found = fit_dictionary(weight, bits)
    rest = weight[weight != 0]
    alone = fit_dictionary(rest, bits)  # 4 % of zeros fill no bin of 8, yet they are a mask's
    assert found.pruned
    assert not alone.pruned
    assert (found.mean, found.std) == pytest.approx((alone.mean, alone.std))
    made = found.apply(weight)
    assert (made[weight == 0] == 0).all()
    assert made.unique().numel() <= 2**bits + 1 + int(found.outliers(weight).sum())
    if share * bits > 1:  # a bit a weight costs less than codes for the zeros: the dictionary is for the others alone
        assert torch.equal(found.centroids, alone.centroids)
        assert torch.equal(made[weight != 0], alone.apply(rest))
    else:
        assert (found.centroids == 0).sum() == 1


def test_the_odd_zero_is_chance_and_one_sided_weights_have_no_outliers_among_zeros():
    one_sided = pruned(0.5).abs()
    assert not fit_dictionary(one_sided, 3, 0.5).outliers(one_sided)[one_sided == 0].any()
    assert not fit_dictionary(drawn(4000), 3).pruned
    assert not fit_dictionary(pruned(0.02), 3).pruned


@pytest.mark.parametrize(("share", "chain"), [(0.7, ["bitmap", "codebook", "bits"]), (0.1, ["codebook", "bits"])])
def test_zeros_cost_a_bit_each_where_there_are_many(share, chain, tmp_path):
    model = tiny()
    weight = model.get_parameter(INNER)
    weight.data.copy_(pruned(share, weight.numel()).reshape(weight.shape))
    zero = weight == 0
    made = Gobo(outlier_log_density=-1000).finish(model, CONTEXT)
    path = tmp_path / "model.safetensors"
    packing.write(path, made.state_dict(), made.storage)
    assert [codec.kind for codec in inspect(path).plan.weights[INNER].codecs] == chain
    state, _ = packing.read(path)
    assert not state[INNER][zero].any()
    codes = weight.numel() - int(zero.sum()) if "bitmap" in chain else weight.numel()
    bitmap = weight.numel() // 8 if "bitmap" in chain else 0
    assert inspect(path).bytes()[INNER] == bitmap + math.ceil(3 * codes / 8) + 4 * 8


@pytest.mark.parametrize(("bits", "embedding_bits"), [(3, 4), (2, 3), (8, 8), (5, 32)])
def test_a_file_holds_what_was_made_in_the_counted_bytes(bits, embedding_bits, tmp_path):
    model = tiny()
    made = Gobo(bits=bits, embedding_bits=embedding_bits, outlier_log_density=0.5).finish(model, CONTEXT)
    path = tmp_path / "model.safetensors"
    packing.write(path, made.state_dict(), made.storage)
    state, storage = packing.read(path)
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())
    assert storage.keys() == made.storage.keys()
    sizes = inspect(path).bytes()
    for name in made.storage:
        width = embedding_bits if "embeddings" in name else bits
        weight = model.get_parameter(name).detach()
        outliers = int(fit_dictionary(weight, width, 0.5).outliers(weight).sum())
        assert sizes[name] == math.ceil(weight.numel() * width / 8) + 4 * 2**width + 8 * outliers
        assert outliers > 0 or weight.numel() < 2000


def test_biases_norms_and_the_classifier_stay_float():
    made = Gobo().finish(tiny(), CONTEXT)
    assert all(name.endswith(".weight") and "norm" not in name for name in made.storage)
    assert "head.classifier.weight" not in made.storage
    before, after = dict(tiny().unique_weights()), dict(made.unique_weights())
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(made.storage)


def test_bits_of_tables_and_of_hard_layers_are_their_own():
    made = Gobo(hard_layers=1, hard_bits=5, position_bits=2, segment_bits=32).finish(tiny(), CONTEXT)
    widths = {name: stored.codecs[0].bits for name, stored in made.storage.items()}
    hard = {name for name, bits in widths.items() if bits == 5}
    assert hard == {INNER, "encoder.layers.0.attention.value.weight"}
    assert widths["encoder.embeddings.word.weight"] == 4
    assert widths["encoder.embeddings.position.weight"] == 2
    assert "encoder.embeddings.segment.weight" not in widths
    assert widths["encoder.layers.1.ffn.0.inner.weight"] == 3
    tables = set(Gobo(bits=32).finish(tiny(), CONTEXT).storage)
    assert tables == {f"encoder.embeddings.{name}.weight" for name in ("word", "position", "segment")}


def test_a_table_smaller_than_its_dictionary_stays_float():
    made = Gobo(embedding_bits=8).finish(tiny(), CONTEXT)  # 2 x 32 segments against 256 centroids
    assert "encoder.embeddings.segment.weight" not in made.storage
    assert "encoder.embeddings.word.weight" in made.storage


def test_the_source_stays():
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Gobo(bits=2).finish(model, CONTEXT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.storage == {}


def test_notes_show_a_handful_of_matrices():
    context = Context(task=None, tokenizer=None, seed=0)
    model = tiny()
    Gobo(bits=3, outlier_log_density=0.5).finish(model, context)
    notes = json.loads(json.dumps(context.notes["gobo"], allow_nan=False))
    names = [name for name in Gobo().widths(model) if name.startswith("encoder.layers.")]
    assert len(notes) == 6
    assert (notes[0]["name"], notes[-1]["name"]) == (names[0], names[-1])
    for note in notes:
        weight = model.get_parameter(note["name"]).detach()
        found, drawn_as = fit_dictionary(weight, 3, 0.5), note["histogram"]
        assert note["centroids"] == found.centroids.tolist()
        assert (note["low"], note["high"]) == (found.low, found.high)
        assert note["outliers"] == int(found.outliers(weight).sum()) > 0
        assert len(drawn_as["counts"]) == 120
        assert sum(drawn_as["counts"]) == weight.numel()
        assert (drawn_as["start"], drawn_as["end"]) == (float(weight.min()), float(weight.max()))
        width = (drawn_as["end"] - drawn_as["start"]) / 120
        assert drawn_as["counts"][0] == int((weight.double() < drawn_as["start"] + width).sum())


def test_float_leaves_no_notes():
    context = Context(task=None, tokenizer=None, seed=0)
    Gobo.noop().finish(tiny(), context)
    assert context.notes == {}


@pytest.mark.parametrize(("count", "expected"), [(0, ""), (1, "a"), (3, "abc"), (5, "ace"), (9, "aei"), (10, "aej")])
def test_a_spread_has_both_ends(count, expected):
    assert "".join(spread("abcdefghij"[:count], 3)) == expected


def test_pictures_of_odd_weights_are_plain_data():
    for weight in (torch.zeros(3, 5), torch.full((2, 2), 0.1), drawn(100, 50.0), torch.tensor([1.0, 1.0 + 2**-23])):
        made = picture(weight, fit_dictionary(weight, 2))
        json.dumps(made, allow_nan=False)
        assert sum(made["histogram"]["counts"]) == weight.numel()
        assert made["histogram"]["start"] < made["histogram"]["end"]

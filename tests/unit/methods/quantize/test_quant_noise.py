"""Noise in training, all or nothing in evaluation, and in the end integers or few subvectors."""

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from bertpress import tasks
from bertpress.artifact import packing
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.grids import affine_grid, quantize
from bertpress.encoder.model import build_model
from bertpress.encoder.transforms import put, transformed, transforms
from bertpress.methods.base import Context
from bertpress.methods.noise import Noise, Refresh
from bertpress.methods.quantize import quant_noise
from bertpress.methods.quantize.quant_noise import QuantNoise, energies, group_of
from bertpress.methods.transform import bake

PRODUCT = {"variant": "product", "centroids": 16, "block_size": 8, "attention_block_size": 4}
TABLES = {f"encoder.embeddings.{table}.weight" for table in ("word", "position", "segment")}


def tiny(kind="sequence", seed=1, **head):
    torch.manual_seed(seed)
    shape = uniform(layers=2, hidden_size=32, heads=2, ffn=48, vocabulary=64, head=HeadSpec(kind=kind, **head))
    return build_model(shape.replace(dropout=0.0, attention_dropout=0.0))


def batch(seed=0, pad=0):
    mask = (torch.arange(9) < torch.tensor([[9], [4], [1], [7]])).long()
    ids = torch.randint(5, 60, (4, 9), generator=torch.Generator().manual_seed(seed)) * mask + pad * (1 - mask)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 1, 0])}


def context(teacher=None, pad=0, said=None):
    task = tasks.resolve("text-classification")
    say = (lambda _: None) if said is None else said.append
    return Context(task=task, tokenizer=None, seed=3, teacher=teacher, say=say,
                   calibration=lambda *_: [batch(0, pad), batch(1, pad)])  # fmt: skip


def answer(model):
    with torch.no_grad():
        return model(**{name: batch()[name] for name in ("input_ids", "attention_mask")}).logits


def matrices(model, classifier=False):
    found = {name for name, weight in model.unique_weights() if weight.ndim == 2}
    return found if classifier else found - {"head.classifier.weight"}


def changed(before, after):
    weights = dict(after.unique_weights())
    return {name for name, weight in before.unique_weights() if not torch.equal(weight, weights[name])}


def finished(method, model, ctx=None):
    """As a stage does it, without training."""
    ctx = ctx or context(teacher=model)
    copy = tiny()
    copy.load_state_dict(model.state_dict())
    made = method.attach(copy, ctx)
    made.eval()
    bake(made)
    return method.finish(made, ctx)


@pytest.mark.parametrize("options", [{"variant": "int"}, PRODUCT, {**PRODUCT, "proxy": False}])
def test_no_noise_is_the_model_and_noise_changes_it_in_training_alone(options):
    model = tiny()
    plain = answer(model)
    silent = QuantNoise(p=0.0, **options).attach(tiny(), context()).train()
    assert torch.equal(answer(silent), plain)
    noisy = QuantNoise(p=0.5, **options).attach(tiny(), context()).train()
    torch.manual_seed(0)
    first = answer(noisy)
    assert not torch.equal(first, plain)
    assert not torch.equal(answer(noisy), first)
    torch.manual_seed(0)
    assert torch.equal(answer(noisy), first)  # the training loop seeds each step: a resumed run repeats itself
    noisy.eval()
    assert torch.equal(answer(noisy), plain) == (options["variant"] == "product")


def test_all_integers_in_training_is_evaluation():
    model = QuantNoise(p=1.0, bits=4).attach(tiny(), context())
    assert torch.equal(answer(model.train()), answer(model.eval()))


def test_what_gets_noise():
    def noised(**options):
        return set(transformed(QuantNoise(**options).attach(tiny(), context())))

    whole = matrices(tiny())
    assert noised() == whole
    assert noised(classifier=True) == matrices(tiny(), classifier=True)
    assert noised(embedding_bits=32) == whole - TABLES
    assert noised(bits=32) == TABLES
    small = {"encoder.embeddings.segment.weight"}  # two rows are no more than a table of centroids
    assert noised(**PRODUCT) == whole - small
    assert noised(**PRODUCT, embedding_bits=32) == whole - TABLES
    assert noised(**PRODUCT, bits=32) == TABLES - small
    assert noised(**PRODUCT | {"attention_block_size": 5}) == {n for n in whole - small if group_of(n) != "attention"}


def test_shares_by_default():
    def share(**options):
        model = QuantNoise(**options).attach(tiny(), context())
        return {transforms(model, name)[0].p for name in transformed(model)}

    assert share() == {0.5}
    assert share(variant="product") == {0.1}
    assert share(variant="product", p=0.2) == {0.2}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bits": 2, "granularity": "tensor"},
        {"bits": 4, "embedding_bits": 3, "symmetric": True},
        {"bits": 3, "symmetric": True, "fit": "mse"},
        PRODUCT | {"tune_steps": 0},
        PRODUCT | {"tune_steps": 2, "proxy": False},
        PRODUCT | {"tune_steps": 2, "centroid_bits": 8, "activation_weighted": True},
        {"variant": "product", "centroids": 2, "block_size": 16, "attention_block_size": 1, "tune_steps": 0},
    ],
)
def test_a_file_holds_what_was_made(options, tmp_path):
    method = QuantNoise(**options)
    made = finished(method, tiny())
    packing.write(tmp_path / "model.safetensors", made.state_dict(), made.storage)
    state, storage = packing.read(tmp_path / "model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())
    assert changed(tiny(), made) == set(storage) == set(made.storage)
    assert len(storage) >= len(matrices(made)) - 2


def test_integers_take_their_bits():
    made = finished(QuantNoise(bits=4, embedding_bits=2), tiny())
    weights = dict(made.unique_weights())
    for name, stored in made.storage.items():
        bits = 2 if name in TABLES else 4
        assert stored.codecs[0].bits == bits
        for row in weights[name]:
            assert row.unique().numel() <= 2**bits
        size = sum(part.nbytes for part in stored.encode(weights[name]).parts.values())
        assert size == weights[name].numel() * bits // 8 + 5 * len(weights[name])


def test_few_subvectors_and_their_size():
    made = finished(QuantNoise(**PRODUCT, tune_steps=3), tiny())
    weights = dict(made.unique_weights())
    for name, stored in made.storage.items():
        dim = 4 if group_of(name) == "attention" else 8
        assert len(weights[name].reshape(-1, dim).unique(dim=0)) <= 16
        size = sum(part.nbytes for part in stored.encode(weights[name]).parts.values())
        assert size == weights[name].numel() // dim + 4 * 16 * dim
    assert not weights["encoder.embeddings.segment.weight"].equal(torch.zeros(2, 32))


def test_the_codebook_is_that_of_the_float_weights_and_tuning_starts_there():
    model = tiny()
    made = finished(QuantNoise(**PRODUCT, tune_steps=0), model)
    for name in made.storage:
        weight, found = model.get_parameter(name), made.get_parameter(name)
        assert (weight - found).square().sum() < 0.9 * weight.square().sum()


def test_groups_in_turn_and_the_rest_float_meanwhile(monkeypatch):
    said, calls, whole = [], [], tiny()

    def look(model, codes, *_, **__):
        calls.append(({group_of(name) for name in codes}, {group_of(name) for name in changed(whole, model)}))
        return codes

    monkeypatch.setattr(quant_noise, "tune", look)
    finished(QuantNoise(**PRODUCT, tune_steps=1), whole, context(whole, said=said))
    groups = [{"ffn"}, {"ffn", "embeddings"}, {"ffn", "embeddings", "attention"}]
    assert calls == [(group, group) for group in groups]
    assert [line.split()[1] for line in said] == ["ffn:", "embeddings:", "attention:"]
    assert group_of("head.dense.weight") == group_of("encoder.layers.1.attention.key.weight") == "attention"


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_tuning_brings_the_model_nearer_to_its_teacher_or_the_labels(alpha):
    teacher = tiny()
    for _, weight in teacher.unique_weights():
        weight.data.mul_(3)
    options = {"alpha": alpha, "tune_learning_rate": 3e-3, "embedding_bits": 32}
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    plain, tuned = (
        finished(QuantNoise(**PRODUCT | options, tune_steps=steps), teacher, context(teacher)) for steps in (0, 40)
    )

    def error(model):
        if alpha:
            return float((answer(model) - answer(teacher)).square().mean())
        return float(tasks.loss(context().task, answer(model), batch()))

    assert error(tuned) < 0.5 * error(plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(weight.grad is None for weight in teacher.parameters())
    assert changed(plain, tuned) <= set(tuned.storage)


def test_without_a_teacher_the_labels_tune():
    with_labels = finished(QuantNoise(**PRODUCT, alpha=0.0, tune_steps=3), tiny())
    alone = finished(QuantNoise(**PRODUCT, alpha=0.7, tune_steps=3), tiny(), context(teacher=None))
    assert not changed(with_labels, alone)


def test_the_same_seed_gives_the_same_bits_and_pads_never_count():
    method = QuantNoise(**PRODUCT, tune_steps=3, activation_weighted=True)
    first, second, padded = (finished(method, tiny(), context(tiny(), pad)) for pad in (0, 0, 7))
    assert not changed(first, second)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(padded.state_dict()[name], tensor, rtol=0, atol=1e-4)


def test_energies_are_sums_of_squares_over_real_tokens():
    model, name = tiny(), "head.dense"
    found = energies(model, [name], [batch(0), batch(1)])[name]
    seen = []
    model.head.dense_slot.register_forward_hook(lambda _, args, out: seen.append(out))
    for seed in (0, 1):
        with torch.no_grad():
            model(batch(seed)["input_ids"], batch(seed)["attention_mask"])
    torch.testing.assert_close(found, torch.cat(seen).square().sum(0))


@pytest.mark.parametrize("kind", ["masked_lm", "token", "span"])
def test_other_heads_and_a_tied_decoder(kind):
    torch.manual_seed(1)
    options = {"activation": "gelu"} if kind == "masked_lm" else {"labels": 2}
    model, teacher = tiny(kind, **options), tiny(kind, seed=2, **options)
    made = QuantNoise(**PRODUCT, tune_steps=2, alpha=1.0).finish(model, context(teacher))
    assert "encoder.embeddings.word.weight" in made.storage
    with torch.no_grad():
        logits = made(batch()["input_ids"]).logits
        made.encoder.embeddings.word.weight[63] += 1  # no token of the batch, so the decoder alone reads it
        assert torch.equal(made(batch()["input_ids"]).logits[..., -1], logits[..., -1]) == (kind != "masked_lm")


def test_pruned_weights_stay_pruned():
    model = tiny()
    name = "encoder.layers.0.ffn.0.inner.weight"
    weight = model.get_parameter(name)
    weight.data *= weight.abs() > weight.abs().median()
    for options in ({"bits": 3}, PRODUCT | {"tune_steps": 2, "centroid_bits": 8}):
        made = finished(QuantNoise(**options), model)
        assert bool((made.get_parameter(name)[weight == 0] == 0).all())
        assert not torch.equal(made.get_parameter(name), weight)


class Small(nn.Module):
    """A mask that removes the larger half, and with it the range."""

    def forward(self, weight):
        return weight * (weight.abs() < weight.abs().median())


@pytest.mark.parametrize(
    "options", [{"bits": 3}, PRODUCT | {"tune_steps": 2}, PRODUCT | {"tune_steps": 0, "proxy": False}]
)
def test_over_a_mask_of_the_same_stage(options, tmp_path):
    model, method, name = tiny(), QuantNoise(**options), "encoder.layers.0.ffn.0.inner.weight"
    masked = Small()(model.get_parameter(name).detach().clone())
    put(model, name, Small())
    method.attach(model, context(model))
    noise = transforms(model, name)[1]
    if "bits" in options:
        assert torch.equal(noise.scale, affine_grid(masked, 3, (1, 0)).scale)
    answer(model.train())
    model.eval()
    bake(model)
    made = method.finish(model, context())
    assert bool((made.get_parameter(name)[masked == 0] == 0).all())
    packing.write(tmp_path / "model.safetensors", made.state_dict(), made.storage)
    assert torch.equal(packing.read(tmp_path / "model.safetensors")[0][name], made.get_parameter(name))


def test_scales_follow_at_the_refresh():
    model = QuantNoise(refresh=2).attach(tiny(), context()).train()
    (callback,) = QuantNoise(refresh=2).callbacks(context())
    assert isinstance(callback, Refresh)
    name = "encoder.layers.0.ffn.0.inner.weight"
    (noise,) = transforms(model, name)
    before = noise.scale.clone()
    stack = model.encoder.layers[0].ffn[0].inner.parametrizations.weight
    stack.original.data.mul_(2)
    for step, factor in ((0, 1), (1, 1), (2, 2)):
        callback.on_step_begin(None, SimpleNamespace(global_step=step), None, model=model)
        answer(model)
        torch.testing.assert_close(noise.scale, before * factor)
    assert isinstance(noise, Noise)
    model.eval()
    torch.testing.assert_close(
        model.encoder.layers[0].ffn[0].inner.weight, quantize(stack.original, noise.grid), rtol=0, atol=0
    )


def test_a_fitted_range_has_no_zero_point():
    with pytest.raises(ValidationError, match="fit=mse must go with symmetric=true"):
        QuantNoise(fit="mse")

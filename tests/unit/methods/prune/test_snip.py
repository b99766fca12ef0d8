"""Norms and penalty by hand, branches that are zero go first and for nothing, pruned is masked."""

from types import SimpleNamespace

import pytest
import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.transforms import transforms
from bertpress.methods.base import Context
from bertpress.methods.branch_norms import below, magnitudes, threshold_for
from bertpress.methods.prune.snip import Branch, Raise, Snip
from bertpress.methods.spectral import SpectralNorm
from bertpress.methods.transform import bake
from bertpress.tasks import resolve

TASK = resolve("sst2").replace(labels=("negative", "positive"))
IDS = torch.randint(5, 50, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(7) < torch.tensor([[7], [4], [1]])).long()
ALL = {"keep_attention": 1.0, "keep_heads": 1.0, "keep_ffn": 1.0}


def tiny():
    torch.manual_seed(3)
    shape = uniform(layers=3, hidden_size=16, heads=4, ffn=12, vocabulary=50, head=HeadSpec(kind="sequence"))
    model = build_model(shape.replace(dropout=0.0, attention_dropout=0.0))
    for _, weight in model.unique_weights():
        weight.data += 0.2 * torch.randn_like(weight)
    return model


def attached(model=None, **options):
    ctx = Context(task=TASK, tokenizer=None, seed=0)
    method = Snip(**{"spectral": "none"} | options)
    return method, method.attach(model or tiny(), ctx), ctx.state["snip"], ctx


def logits(model, mask=MASK):
    with torch.no_grad():
        return model(IDS, attention_mask=mask).logits


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def seen(model):
    """One pass in training mode."""
    model.train()
    answer = model(IDS, attention_mask=MASK).logits
    model.eval()
    return answer


def finished(method, model, ctx):
    model.eval()
    bake(model)
    return method.finish(model, ctx)


def test_magnitudes_by_hand_without_pads():
    values = torch.tensor([[[[1.0, -3.0], [0.0, 0.5]], [[2.0, 2.0], [4.0, 0.0]], [[9.0, 9.0], [9.0, 9.0]]]])
    mean, peak = magnitudes(values, torch.tensor([[1, 1, 0]]))
    assert mean.tolist() == [2.0, 1.125]
    assert peak.tolist() == [3.0, 4.0]


def test_thresholds():
    norms = torch.tensor([0.5, 0.0, 2.0, 0.1])
    assert not below(norms, 0.0).any()
    assert below(norms, float("inf")).all()
    assert [below(norms, threshold_for(norms, count)).sum() for count in range(5)] == [0, 1, 2, 3, 4]
    assert below(norms, threshold_for(norms, 2)).tolist() == [False, True, False, True]


def test_norms_and_penalty_are_those_of_the_branches():
    _, model, branches, ctx = attached()
    outputs = {}
    unit, network = model.encoder.layers[1].attention.output, model.encoder.layers[2].ffn[0].outer
    unit.register_forward_hook(lambda _, args, out: outputs.update(context=args[0], attention=out))
    network.register_forward_hook(lambda _, args, out: outputs.update(ffn=out))
    seen(model)
    real = MASK.bool()
    found = dict(zip(branches.keys, (branches.total / branches.passes).tolist(), strict=True))
    peaks = dict(zip(branches.keys, branches.peak.tolist(), strict=True))
    head = outputs["context"][..., 4:8] @ unit.weight[:, 4:8].t()
    for branch, value in (
        (Branch("attention", 1), outputs["attention"]),
        (Branch("ffn", 2), outputs["ffn"]),
        (Branch("head", 1, 1), head),
    ):
        assert found[branch] == pytest.approx(float(value[real].abs().mean().detach()), rel=1e-5)
        assert peaks[branch] == pytest.approx(float(value[real].abs().max().detach()), rel=1e-5)
    assert len(found) == 3 * (1 + 4 + 1)
    (term,) = Snip(weight=0.5).objectives(ctx)
    assert term.weight == 0.5
    value = term(None)
    assert float(value.detach()) == pytest.approx(sum(found.values()), rel=1e-5)
    value.backward()
    assert model.get_parameter("encoder.layers.1.attention.query.weight").grad.abs().sum() > 0
    logits(model)
    assert float(branches.passes) == 1  # evaluation is not watched


def test_branches_that_are_zero_go_first_and_change_nothing():
    model = tiny()
    layers = model.encoder.layers
    block, unit, network = layers[0].attention.output, layers[1].attention, layers[2].ffn[0].outer
    for weight in (block.weight, block.bias, network.weight, network.bias):
        weight.data.zero_()
    unit.output.weight.data[:, 8:12] = 0
    plain = logits(model)
    shares = {"keep_attention": 2 / 3, "keep_heads": 7 / 12, "keep_ffn": 2 / 3}
    method, model, _, ctx = attached(model, **shares)
    close(logits(model), plain)
    seen(model)
    cut = finished(method, model, ctx)
    close(logits(cut), plain)
    assert [layer.attention.heads for layer in cut.blueprint.layers] == [(), (0, 1, 3), (0, 1, 2, 3)]
    assert [entry["kept"] for entry in ctx.notes["heads"]] == [[False] * 4, [False, True, True, True], [True] * 4]
    assert [entry["scores"][0] > 0 for entry in ctx.notes["heads"]] == [False, False, True]
    assert [layer.ffn for layer in cut.blueprint.layers] == [(12,), (12,), (0,)]
    assert cut.blueprint.total_parameters == sum(weight.numel() for _, weight in cut.unique_weights())


@pytest.mark.parametrize("norm", ["mean", "max"])
def test_pruned_is_masked(norm):
    method, model, branches, ctx = attached(norm=norm, keep_attention=0.7, keep_heads=0.5, keep_ffn=0.3)
    seen(model)
    branches.remove(method.gone(), norm)
    expected = logits(model)
    assert not torch.allclose(expected, logits(tiny()), atol=1e-3)
    cut = finished(method, model, ctx)
    close(logits(cut), expected)
    alive = dict(zip(branches.keys, branches.alive.tolist(), strict=True))
    assert sum(on for branch, on in alive.items() if branch.kind == "ffn") == 1
    assert sum(on for branch, on in alive.items() if branch.kind == "attention") == 2
    heads = [[branch.part for branch, on in alive.items() if branch[:2] == ("head", i) and on] for i in range(3)]
    assert [list(layer.attention.heads) for layer in cut.blueprint.layers] == heads
    assert sum(map(len, heads)) == 6


def test_the_chosen_norm_decides_heads_go_with_their_block_and_norms_begin_anew():
    for norm, gone in (("mean", 0), ("max", 2)):
        method, _, branches, _ = attached(norm=norm, keep_attention=0.7, keep_heads=1.0, keep_ffn=1.0)
        branches.total.copy_(torch.arange(1.0, 19.0))
        branches.peak.copy_(torch.arange(18.0, 0.0, -1.0))
        branches.passes.fill_(2)
        thresholds = branches.remove(method.gone(), norm)
        assert thresholds == {"attention": 11 / 2 if norm == "mean" else 8.0, "head": 0.0, "ffn": 0.0}
        away = {branch for branch, on in zip(branches.keys, branches.alive.tolist(), strict=True) if not on}
        assert away == {Branch("attention", gone), *(Branch("head", gone, i) for i in range(4))}
        assert not branches.total.any()
        assert not branches.peak.any()
        assert not branches.passes


def test_nothing_or_everything():
    method, model, _, ctx = attached(**ALL)
    seen(model)
    close(logits(finished(method, model, ctx)), logits(tiny()))
    method, model, _, ctx = attached(keep_attention=0.0, keep_heads=0.0, keep_ffn=0.0)
    seen(model)
    cut = finished(method, model, ctx)
    assert not [name for name, weight in cut.unique_weights() if "layers" in name and weight.ndim == 2]
    plain = tiny()
    with torch.no_grad():
        hidden = plain.encoder.embeddings(IDS, None)
        for layer in plain.encoder.layers:
            hidden = layer.ffn[0].norm(layer.attention.norm(hidden))
        close(logits(cut), plain.head(hidden, MASK))


def test_removal_follows_the_schedule_and_what_is_gone_stays_gone():
    method, model, branches, ctx = attached(
        keep_attention=1.0, keep_heads=0.0, keep_ffn=1.0, every=10, begin=0, end=0.5
    )
    (callback,) = method.callbacks(ctx)
    assert isinstance(callback, Raise)
    counts, before = [], branches.alive.clone()
    for step in (0, 5, 10, 20, 30, 50):
        seen(model)
        callback.on_step_begin(None, SimpleNamespace(global_step=step, max_steps=100), None)
        assert not (branches.alive & ~before).any()
        before = branches.alive.clone()
        counts.append(int(branches.alive[branches.of("head")].sum()))
    # 12 heads, cubic: 12 (1 - (1 - t)^3) are gone at t = .2, .4, .6
    assert counts == [12, 12, 12 - 6, 12 - 9, 12 - 11, 0]


def test_a_resumed_run_finds_gates_and_norms():
    method, model, branches, ctx = attached(keep_heads=0.5, spectral="start")
    seen(model)
    branches.remove(method.gone(), "mean")
    seen(model)
    _, again, other, ctx_again = attached(keep_heads=0.5, spectral="start")
    again.load_state_dict(model.state_dict())
    ctx_again.state.load_state_dict(ctx.state.state_dict())
    assert torch.equal(other.alive, branches.alive)
    close(logits(finished(method, again, ctx_again)), logits(finished(method, model, ctx)))


@pytest.mark.parametrize("spectral", ["start", "one"])
def test_spectral_norms_are_folded(spectral):
    method, model, _, ctx = attached(spectral=spectral, **ALL)
    normed = [name for name, _ in model.unique_weights()
              if any(isinstance(each, SpectralNorm) for each in transforms(model, name))]  # fmt: skip
    assert len(normed) == 3 * 6
    if spectral == "start":
        torch.testing.assert_close(logits(model), logits(tiny()), atol=1e-3, rtol=0)
    for _ in range(3):
        seen(model)
    expected = logits(model)
    cut = finished(method, model, ctx)
    close(logits(cut), expected)
    for name in normed:
        value = torch.linalg.matrix_norm(cut.get_parameter(name).detach(), 2)
        target = torch.linalg.matrix_norm(tiny().get_parameter(name).detach(), 2) if spectral == "start" else 1.0
        assert float(value) == pytest.approx(float(target), rel=1e-2)
    assert not [name for name in cut.state_dict() if "parametrizations" in name]
    assert not cut._forward_pre_hooks

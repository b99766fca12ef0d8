"""Factors of 1 change nothing, fold away, cost what they free; what they take to 0 goes without a trace."""

import pytest
import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import keep_head_width, keep_heads, keep_hidden, keep_neurons, share
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.dimensions import freed, resized, shrink, sizes
from bertpress.methods.prune.schubert import Schubert, choose, magnitudes
from bertpress.methods.transform import bake
from bertpress.tasks import resolve
from bertpress.training import TrainSettings
from bertpress.training.optimizer import make_groups

TASK = resolve("sst2").replace(labels=("negative", "positive"))
IDS = torch.randint(5, 50, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(7) < torch.tensor([[7], [4], [1]])).long()


def tiny(kind="sequence", **changes):
    torch.manual_seed(3)
    head = HeadSpec(kind=kind, activation="gelu" if kind == "masked_lm" else "tanh")
    shape = uniform(layers=2, hidden_size=16, heads=2, ffn=12, vocabulary=50, positions=20, head=head)
    model = build_model(shape.replace(dropout=0.0, attention_dropout=0.0, **changes))
    for _, weight in model.unique_weights():
        weight.data += 0.1 * torch.randn_like(weight)
    return model


def attached(model, **options):
    ctx = Context(task=TASK, tokenizer=None, seed=0)
    method = Schubert(**options)
    return method, method.attach(model, ctx), ctx.state["schubert"], ctx


def logits(model):
    with torch.no_grad():
        return model(IDS, MASK).logits


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


class KeptNorm(torch.nn.Module):
    """A norm that averages over some dimensions alone; its weight and bias, folded, silence the others."""

    def __init__(self, norm, kept):
        super().__init__()
        self.weight, self.bias, self.epsilon, self.kept = norm.weight, norm.bias, norm.eps, kept

    def forward(self, x):
        live = x[..., self.kept]
        spread = (live.var(-1, correction=0, keepdim=True) + self.epsilon).sqrt()
        return (x - live.mean(-1, keepdim=True)) / spread * self.weight + self.bias


@pytest.mark.parametrize("kind", ["sequence", "token", "masked_lm", "embedding"])
def test_factors_of_one_change_nothing_and_any_fold_away(kind):
    model = tiny(kind)
    plain = logits(model)
    _, model, factors, _ = attached(model)
    assert torch.equal(logits(model), plain)
    assert {name for name, _ in model.unique_weights()} == {name for name, _ in tiny(kind).unique_weights()}
    for i, alpha in enumerate(factors.alphas.values()):
        alpha.data.uniform_(0.3, 1.5, generator=torch.Generator().manual_seed(i))
    expected = logits(model)
    assert not torch.allclose(expected, plain, atol=1e-3)
    bake(model)
    close(logits(model), expected)
    assert not [name for name in model.state_dict() if "parametrizations" in name]


def test_factors_of_zero_leave_dimensions_that_can_go():
    _, model, factors, _ = attached(tiny())
    gone = {"0/heads": [1], "1/keys": [[0, 5], [2, 3]], "0/values": [[1], [7]], "1/ffn0": [0, 3, 11]}
    kept = {name: torch.arange(shape[-1]).expand(shape) for name, shape in sizes(tiny().blueprint).items()}
    for name, units in gone.items():
        alpha = factors.alphas[name].data
        alpha.scatter_(-1, torch.tensor(units), 0.0)
        kept[name] = torch.stack([each.nonzero().flatten() for each in alpha.reshape(-1, alpha.shape[-1])])
        kept[name] = kept[name][0] if alpha.ndim == 1 else kept[name]
    expected = logits(model)
    bake(model)
    cut = shrink(model, kept)
    close(logits(cut), expected)
    shapes = [layer.attention for layer in cut.blueprint.layers]
    assert [(len(spec.heads), spec.head_size, spec.value_size) for spec in shapes] == [(1, 8, 7), (2, 6, 8)]
    assert [layer.ffn for layer in cut.blueprint.layers] == [(12,), (9,)]
    assert [spec.scale for spec in shapes] == [pytest.approx(8**-0.5)] * 2


@pytest.mark.parametrize("kind", ["sequence", "token", "masked_lm"])
def test_hidden_dimensions_go_under_norms_that_average_over_those_that_are_left(kind):
    model = tiny(kind)
    kept = [i for i in range(16) if i not in (0, 7, 9)]
    _, model, factors, _ = attached(model)
    factors.alphas["hidden"].data[[0, 7, 9]] = 0
    bake(model)
    cut = keep_hidden(model, kept)
    assert not torch.allclose(logits(cut), logits(model), atol=1e-3)  # a plain norm sees what is to go
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.LayerNorm):
                setattr(module, name, KeptNorm(child, kept))
    close(logits(cut), logits(model))


def test_costs_are_the_parameters_that_surgery_frees():
    model = tiny()
    whole = model.blueprint.total_parameters
    cuts = {
        "hidden": keep_hidden(model, range(15)),
        "1/heads": keep_heads(model, {1: (0,)}),
        "0/keys": keep_head_width(model, {0: ([range(7)] * 2, [range(8)] * 2)}),
        "0/values": keep_head_width(model, {0: ([range(8)] * 2, [range(7)] * 2)}),
        "1/ffn0": keep_neurons(model, {(1, 0): range(11)}),
    }
    costs = freed(model.blueprint)
    assert costs.keys() == sizes(model.blueprint).keys()
    for name, cut in cuts.items():
        assert costs[name] == whole - sum(weight.numel() for _, weight in cut.unique_weights()), name
    _, _, factors, _ = attached(model)
    per_head = {name: cost / (2 if name[2:] in ("keys", "values") else 1) for name, cost in costs.items()}
    assert factors.beta["hidden"] / factors.beta["0/keys"] == pytest.approx(per_head["hidden"] / per_head["0/keys"])
    assert factors.beta["1/heads"] / factors.beta["1/ffn0"] == pytest.approx(per_head["1/heads"] / per_head["1/ffn0"])


def test_the_penalty_by_hand():
    method, _, factors, ctx = attached(tiny(), gamma=3.0)
    (term,) = method.objectives(ctx)
    assert term.weight == 3.0
    assert float(term(None).detach()) == pytest.approx(1.0)
    factors.alphas["1/ffn0"].data[4] = -5.0
    assert float(term(None).detach()) == pytest.approx(1.0 + 4 * factors.beta["1/ffn0"])
    term(None).backward()
    assert torch.allclose(factors.alphas["hidden"].grad, torch.full((16,), factors.beta["hidden"]))


def test_factors_have_a_rate_of_their_own_and_are_trained_once():
    _, model, factors, ctx = attached(tiny(), learning_rate=0.25)
    mine = {id(alpha) for alpha in factors.alphas.values()}
    for group in make_groups([model, ctx.state], TrainSettings(weight_decay=0.1)):
        if found := {id(weight) for weight in group["params"]} & mine:
            assert found == mine
            assert len(group["params"]) == len(mine)
            assert (group["lr"], group["weight_decay"]) == (0.25, 0.0)
    assert mine <= {id(weight) for weight in ctx.state.parameters()}
    assert not mine & {id(weight) for weight in model.parameters()}


def test_units_rank_by_magnitude_within_each_head():
    alpha = torch.tensor([[0.5, -2.0, 1.0], [3.0, 0.0, 1.0]])
    assert magnitudes(alpha).tolist() == [2.5, 1.0, 0.25]
    assert magnitudes(torch.tensor([0.5, -2.0])).tolist() == [2.0, 0.5]


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.2])
def test_as_many_units_stay_as_the_share_of_parameters_allows(keep):
    shape = tiny().blueprint
    draw = torch.Generator().manual_seed(1)
    alphas = {name: torch.rand(size, generator=draw) for name, size in sizes(shape).items()}
    counts = choose(shape, alphas, keep, 1)
    assert resized(shape, counts).total_parameters <= keep * shape.total_parameters
    scores = {name: magnitudes(alpha) for name, alpha in alphas.items()}
    stayed = {name: value[: counts[name]] for name, value in scores.items()}
    lost = {name: value[counts[name] :] for name, value in scores.items() if counts[name] < len(value)}
    last = max(lost, key=lambda name: float(lost[name][0]))
    assert float(lost[last][0]) <= min(float(value[-1]) for value in stayed.values() if len(value) > 1)
    more = {**counts, last: counts[last] + 1}
    assert resized(shape, more).total_parameters > keep * shape.total_parameters
    assert choose(shape, alphas, 1.0, 1) == {name: size[-1] for name, size in sizes(shape).items()}


def test_layers_come_out_different_and_reload(tmp_path):
    method, model, factors, ctx = attached(tiny(), keep=0.5, multiple_of=2)
    for i, alpha in enumerate(factors.alphas.values()):
        alpha.data.uniform_(-1, 1, generator=torch.Generator().manual_seed(i))
    bake(model)
    before = model.blueprint
    cut = method.finish(model, ctx)
    total = sum(weight.numel() for _, weight in cut.unique_weights())
    assert total == cut.blueprint.total_parameters <= 0.5 * before.total_parameters
    assert cut.blueprint.hidden_size % 2 == 0
    assert cut.blueprint.layers[0] != cut.blueprint.layers[1]
    strongest = factors.alphas["hidden"].detach().abs().topk(cut.blueprint.hidden_size).indices.sort().values
    assert torch.equal(cut.encoder.embeddings.norm.weight, model.encoder.embeddings.norm.weight[strongest])
    cut.save_pretrained(tmp_path)
    assert torch.equal(logits(type(cut).from_pretrained(tmp_path)), logits(cut))
    told = {"heads": [len(layer.attention.heads) for layer in cut.blueprint.layers],
            "neurons": [layer.ffn[0] for layer in cut.blueprint.layers]}  # fmt: skip
    for name, counts in told.items():
        assert [sum(entry["kept"]) for entry in ctx.notes[name]] == counts
        for entry in ctx.notes[name]:
            assert entry["kept"] == sorted(entry["kept"]), "a weaker unit was kept"


def test_shared_layers_have_factors_once():
    model = share(tiny(), {1: 0})
    assert sizes(model.blueprint).keys() == {"hidden", "0/heads", "0/keys", "0/values", "0/ffn0"}
    method, model, factors, ctx = attached(model, keep=0.6, multiple_of=1)
    factors.alphas["0/ffn0"].data[:6] = 0.1
    factors.alphas["hidden"].data[3] = 0.2
    bake(model)
    cut = method.finish(model, ctx)
    assert cut.blueprint.layers[0].ffn == cut.blueprint.layers[1].ffn
    assert cut.blueprint.total_parameters <= 0.6 * model.blueprint.total_parameters


def test_a_decoder_of_its_own_is_refused():
    head = HeadSpec(kind="masked_lm", free_decoder=True)
    embeddings = tiny().blueprint.embeddings.model_copy(update={"size": 8, "project": "after"})
    model = build_model(tiny().blueprint.replace(head=head, embeddings=embeddings))
    with pytest.raises(RecipeError, match=r"^prune/schubert: a masked LM with an untied decoder part"):
        attached(model)

"""The inverse against a direct one, removal against brute force on quadratics, and zeros that stay."""

from itertools import combinations

import pytest
import torch
from short_training import batch, context, tiny, train

from bertpress import tasks
from bertpress.methods.masks import mask_of
from bertpress.methods.prune import obert
from bertpress.methods.prune.obert import Obert, Surgeon, in_blocks, portions, saliency, without

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def fisher(gradients, damping):
    """(samples, blocks, size) to (blocks, size, size), as it is defined."""
    size = gradients.shape[-1]
    outer = torch.einsum("sbi,sbj->bij", gradients, gradients) / len(gradients)
    return outer + damping * torch.eye(size, dtype=DOUBLE)


def surgeon(weights, gradients, **options):
    """With gradients given by name, (samples, *shape)."""
    count = len(next(iter(gradients.values())))

    def samples(names):
        for i in range(count):
            yield [gradients[name][i] for name in names]

    return Surgeon(weights, samples, count, **{"block": 5, "damping": 1e-3, **options})


@pytest.mark.parametrize("damping", [1e-5, 1e-2])
def test_the_papers_recursion_gives_the_same_inverse(damping):
    """Sherman & Morrison, gradient by gradient, from the inverse of the damping upwards."""
    gradients = drawn(20, 3, 4)
    (found,) = surgeon({"w": drawn(3, 4)}, {"w": gradients}, block=4, damping=damping).fishers()
    inverse = torch.eye(4, dtype=DOUBLE).repeat(3, 1, 1) / damping
    for g in gradients:
        for f, row in zip(inverse, g, strict=True):
            f -= (f @ row)[:, None] * (row @ f)[None] / (20 + row @ f @ row)
    torch.testing.assert_close(torch.linalg.inv(found["w"]), inverse, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found["w"], fisher(gradients, damping))


def quadratic(curvature, change):
    return float(0.5 * change @ curvature @ change)


def test_a_single_removal_costs_what_was_predicted():
    curvature, weight = fisher(drawn(12, 1, 5), 0.1), drawn(1, 5, seed=1)
    inverse = torch.linalg.inv(curvature)
    predicted = saliency(weight, curvature)[0]
    for q in range(5):
        gone = torch.arange(5)[None] == q
        after = without(weight, curvature, gone)
        assert after[0, q] == 0
        assert quadratic(curvature[0], (after - weight)[0]) == pytest.approx(float(predicted[q]))
        single = weight[0] - weight[0, q] * inverse[0][:, q] / inverse[0][q, q]
        torch.testing.assert_close(after[0], single)


def least_squares(curvature, weight, gone):
    """The least change of the loss with zeros in these places: solved for the others."""
    left = [i for i in range(len(weight)) if i not in gone]
    made = torch.zeros_like(weight)
    right = curvature[left][:, gone] @ weight[list(gone)]
    made[left] = weight[left] + torch.linalg.solve(curvature[left][:, left], right)
    return made


def test_joint_removals_are_those_of_brute_force():
    curvature, weight = fisher(drawn(12, 1, 5), 0.1), drawn(1, 5, seed=1)
    for count in range(6):
        for gone in combinations(range(5), count):
            mask = torch.tensor([[i in gone for i in range(5)]])
            after = without(weight, curvature, mask)
            torch.testing.assert_close(after[0], least_squares(curvature[0], weight[0], list(gone)))
            assert torch.equal(after == 0, mask)


def test_single_updates_added_up_would_cost_more():
    curvature, weight = fisher(drawn(7, 1, 5), 0.01), drawn(1, 5, seed=1)
    inverse, gone = torch.linalg.inv(curvature), torch.tensor([[True, True, True, False, False]])
    added = weight[0] - inverse[0] @ ((weight * gone)[0] / inverse[0].diagonal())
    joint = without(weight, curvature, gone)[0]
    assert quadratic(curvature[0], joint - weight[0]) < quadratic(
        curvature[0], added.masked_fill(gone[0], 0) - weight[0]
    )


def test_a_diagonal_matrix_is_magnitude_weighted_by_curvature():
    scales = torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0], dtype=DOUBLE)
    gradients = {"w": torch.eye(5, dtype=DOUBLE)[:, None] * (5 * scales).sqrt()}  # F = diag(scales)
    weights = {"w": torch.tensor([[1.0, 0.5, 2.0, -1.0, 0.2]], dtype=DOUBLE)}
    made = surgeon(weights, gradients, damping=1e-9)
    (found,) = made.fishers()
    expected = weights["w"].square() * scales / 2
    torch.testing.assert_close(made.saliencies(found)["w"], expected)  # 0.5, 1.25, 0.2, 1.5, 0.02
    assert made.remove(0.6, "uniform", 0.0)["w"].tolist() == [pytest.approx([1.0, 0.5, 0.0, -1.0, 0.0])]


def test_blocks_do_not_know_of_each_other_and_the_last_is_filled_up():
    weights, gradients = {"w": drawn(3, 4, seed=3)}, {"w": drawn(30, 3, 4)}
    made = surgeon(weights, gradients).remove(0.5, "uniform", 0.0)["w"].flatten()
    flat, kept = weights["w"].flatten(), made != 0
    assert int(kept.sum()) == 6
    samples = gradients["w"].flatten(1)
    costs = []
    for start in (0, 5, 10):
        part = slice(start, min(start + 5, 12))
        curvature = fisher(samples[:, None, part], 1e-3)[0]
        costs.append(flat[part].square() / (2 * torch.linalg.inv(curvature).diagonal()))
        gone = (~kept[part]).nonzero().flatten().tolist()
        torch.testing.assert_close(made[part], least_squares(curvature, flat[part], gone))
    costs = torch.cat(costs)
    assert float(costs[kept].min()) > float(costs[~kept].max())
    assert in_blocks(torch.arange(7), 5).tolist() == [[0, 1, 2, 3, 4], [5, 6, 0, 0, 0]]


def test_what_is_gone_stays_out_of_the_curvature():
    weights, gradients = {"w": drawn(1, 5, seed=3)}, {"w": drawn(30, 1, 5)}
    weights["w"][0, 1:3] = 0
    made = surgeon(weights, gradients).remove(0.4, "uniform", 0.0)["w"][0]
    left = [0, 3, 4]
    curvature = fisher(gradients["w"][:, :, left], 1e-3)[0]
    costs = weights["w"][0, left].square() / (2 * torch.linalg.inv(curvature).diagonal())
    expected = least_squares(curvature, weights["w"][0, left], [int(costs.argmin())])
    torch.testing.assert_close(made[left], expected)
    assert not made[1:3].any()


def test_portions_change_nothing(monkeypatch):
    weights = {name: drawn(4, 5, seed=i) for i, name in enumerate("abc")}
    gradients = {name: drawn(20, 4, 5, seed=i + 5) * (i + 1) for i, name in enumerate("abc")}
    for scope in ("uniform", "global"):
        whole = surgeon(weights, gradients).remove(0.4, scope, 0.0)
        monkeypatch.setattr(obert, "MEMORY", 1)
        parts = surgeon(weights, gradients).remove(0.4, scope, 0.0)
        monkeypatch.undo()
        assert all(torch.equal(whole[name], parts[name]) for name in weights)
        counts = [int((weight != 0).sum()) for weight in whole.values()]
        assert (sum(counts) == 24) if scope == "global" else (counts == [8, 8, 8])
    assert list(portions({"a": 10, "b": 10, "c": 30}, 5, 800)) == [["a", "b"], ["c"]]


def test_gradients_are_those_of_single_sentences():
    model, ctx, seen = tiny(), context(), {}

    class Looking(Surgeon):
        def remove(self, keep, scope, floor):
            seen.update(samples=self.samples, gradients=[list(g) for g in self.gradients(["head.dense.weight"])])
            return dict(self.weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(obert, "Surgeon", Looking)
        Obert(examples=6, batch=4).finish(model, ctx)  # 4 of 6 examples fill a gradient
        assert seen["samples"] == len(seen["gradients"]) == 1
        Obert(examples=6).finish(model, ctx)
    assert seen["samples"] == len(seen["gradients"]) == 6
    for i, (gradient,) in enumerate(seen["gradients"]):
        row = {name: tensor[i : i + 1] for name, tensor in batch(9, rows=6).items()}
        loss = tasks.loss(ctx.task, model(row["input_ids"], row["attention_mask"]).logits, row)
        (expected,) = torch.autograd.grad(loss, [model.head.dense.weight])
        torch.testing.assert_close(gradient, expected)


def test_once_it_hurts_less_than_magnitudes_alone():
    model, ctx = tiny(), context()
    for seed in range(60):
        inputs = batch(seed, rows=16)
        model(**inputs).loss.backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.05 * weight.grad if weight.grad is not None else 0
        model.zero_grad()
    method = Obert(keep=0.5, examples=64, scope="uniform", damping=1e-4)
    made = method.finish(model, ctx)
    sizes = {name: model.get_parameter(name).detach() for name in method.weights(model)}
    probe = {name: batch(9, rows=64)[name] for name in ("input_ids", "attention_mask")}
    expected = model(**probe).logits

    def distance(other):
        return (other(**probe).logits - expected).square().mean().item()

    plain = obert.with_weights(
        model, {name: w.masked_fill(w.abs() < w.abs().flatten().median(), 0.0) for name, w in sizes.items()}
    )
    assert distance(made) < 0.5 * distance(plain)
    for name, weight in sizes.items():
        assert int((made.get_parameter(name) != 0).sum()) == round(0.5 * weight.numel())


def test_while_training_more_and_more_go_and_never_come_back():
    method, before, shares = Obert(keep=0.3, every=3, examples=8, block=8, scope="uniform"), {}, []

    def look(step, model):
        for name in method.weights(model):
            kept = mask_of(model, name).kept
            assert not (kept & ~before.get(name, torch.ones_like(kept))).any()
            before[name] = kept.clone()
        shares.append(float(kept.float().mean()))

    ctx = context()
    asked, batches = [], ctx.calibration
    ctx.calibration = lambda count, *_: asked.append(count) or batches(count)
    made = train(tiny(), method, ctx, 15, look)
    assert len(asked) == len(set(shares)) - 1, "nothing is left to do in the end"
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) >= 4
    for name, kept in before.items():
        assert torch.equal(made.get_parameter(name) != 0, kept)
        assert int(kept.sum()) == round(0.3 * kept.numel())


def test_keeping_all_reproduces_the_model():
    model = tiny()
    made = Obert.noop().finish(model, context())
    assert all(torch.equal(weight, made.get_parameter(name)) for name, weight in model.unique_weights())

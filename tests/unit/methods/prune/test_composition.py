"""The cap is met, more candidates are never worse, what is cut out answers as in place."""

import pytest
import torch
from sample_run import make_data, make_model

from bertpress import tasks
from bertpress.encoder.subnetworks import Part, cut, running, subnetwork
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.latency import Latencies
from bertpress.methods.prune.composition import Composition, Space, loss_of, search, shrunk
from bertpress.recipe import Recipe
from bertpress.training import Teacher, TrainSettings, collate_for, train

TASK, DATA, _, TOKENIZER = make_data()
COLLATE = collate_for(TOKENIZER)
BATCHES = [COLLATE([DATA[i] for i in range(12)]), COLLATE([DATA[i] for i in range(12, 17)])]
INPUTS = {name: BATCHES[0][name] for name in ("input_ids", "attention_mask")}
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def timer(blueprint, part, unit):
    """Milliseconds by size, of which a part is there whatever the size."""
    return 0.1 + (part.heads if unit == "attention" else part.ffn[0] / 16)


@pytest.fixture(autouse=True)
def _a_table_of_our_own(monkeypatch):
    monkeypatch.setattr(Composition, "latencies", lambda self, model: Latencies(model.blueprint, timer))


def trained():
    model = make_model(TASK, TOKENIZER, layers=3, dropout=0.0)
    draw = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=draw)
    return model


def context(teacher=None, seed=0):
    return Context(task=TASK, tokenizer=TOKENIZER, seed=seed, teacher=teacher, calibration=lambda *_: BATCHES)


def logits(model):
    with torch.no_grad():
        return model(**INPUTS).logits


def lottery(parts):
    """A loss without rhyme or reason."""
    return float(torch.rand((), generator=torch.Generator().manual_seed(hash(parts) % 2**31)))


def found(evolve, candidates, cap=5.0, loss=lottery, seed=0):
    space = Space(trained().blueprint, SHARES, SHARES)
    latency, draw = Latencies(space.blueprint, timer), torch.Generator().manual_seed(seed)
    return search(space, latency, loss, cap=cap, candidates=candidates, evolve=evolve, generator=draw), latency, space


def test_choices_by_hand():
    space = Space(trained().blueprint, SHARES, (0.5, 1.0))
    assert space.sizes == [5, 2] * 3
    assert space.whole == (4, 1, 4, 1, 4, 1)
    assert space.parts(space.whole) == subnetwork(space.blueprint)
    assert space.parts((0, 0, 1, 1, 4, 0)) == (Part(0, 0, (16,)), Part(1, 1, (32,)), Part(2, 2, (16,)))


@pytest.mark.parametrize("evolve", [False, True])
@pytest.mark.parametrize("cap", [1.0, 3.7, 8.0, 12.6])
def test_every_candidate_meets_the_cap(evolve, cap):
    candidates, latency, space = found(evolve, 60, cap)
    assert all(latency(space.parts(each.choice)) == each.milliseconds <= cap for each in candidates)
    assert len({each.choice for each in candidates}) == len(candidates)
    assert all(each.loss == lottery(space.parts(each.choice)) for each in candidates)
    if cap > latency.whole:
        assert candidates[0].choice == space.whole


@pytest.mark.parametrize("evolve", [False, True])
def test_more_candidates_are_never_worse(evolve):
    best = []
    longest, _, _ = found(evolve, 80)
    for count in range(1, 81):
        candidates, _, _ = found(evolve, count)
        assert candidates == longest[: len(candidates)]
        best.append(min(each.loss for each in candidates))
    assert best == sorted(best, reverse=True)
    assert best[-1] < best[0]
    assert found(evolve, 20)[0] == found(evolve, 20)[0] != found(evolve, 20, seed=1)[0]


def test_evolution_finds_a_planted_composition_sooner_than_chance():
    """The loss is the distance from a composition that meets the cap."""
    _, _, space = found(False, 1)
    planted = space.parts((4, 0, 0, 4, 0, 1))

    def distance(parts):
        return sum(abs(a.heads - b.heads) + abs(a.ffn[0] - b.ffn[0]) / 8 for a, b in zip(parts, planted, strict=True))

    best = {
        evolve: sum(min(each.loss for each in found(evolve, 80, 6.0, distance, seed)[0]) for seed in range(5))
        for evolve in (False, True)
    }
    assert best[True] < best[False]


def test_what_does_not_fit_is_shrunk_gene_by_gene():
    draw = torch.Generator().manual_seed(0)
    assert shrunk((3, 2), lambda choice: sum(choice) <= 5, draw) == (3, 2)
    assert sum(shrunk((3, 2), lambda choice: sum(choice) <= 2, draw)) == 2
    assert shrunk((3, 2), lambda choice: False, draw) == (0, 0)


def test_candidates_are_scored_by_the_tasks_loss_over_all_rows():
    model, parts = trained(), (Part(0, 1, (8,)), Part(1, 0, (32,)), Part(2, 2, (0,)))
    alone = cut(model, parts)
    with torch.no_grad():
        losses = [
            float(tasks.loss(TASK, alone(b["input_ids"], b["attention_mask"]).logits, b)) * len(b["input_ids"])
            for b in BATCHES
        ]
    assert loss_of(model, parts, context(), 17) == pytest.approx(sum(losses) / 17, rel=1e-5)


@pytest.mark.parametrize("how", ["evolution", "random"])
def test_the_winner_is_cut_out_as_it_was_scored(how):
    model, ctx = trained(), context()
    method = Composition(latency=0.5, candidates=20, search=how)
    model = method.attach(model, ctx)
    small = method.finish(model, ctx)
    notes = ctx.notes["composition"]
    parts = tuple(Part(part["layer"], part["heads"], tuple(part["ffn"])) for part in notes["chosen"])
    with torch.no_grad(), running(model, parts):
        inside = model(**INPUTS).logits
    torch.testing.assert_close(logits(small), inside, atol=1e-5, rtol=0)
    assert [len(layer.attention.heads) for layer in small.blueprint.layers] == [part.heads for part in parts]
    best = min(notes["candidates"], key=lambda each: each["loss"])
    assert loss_of(small, subnetwork(small.blueprint), context(), 17) == pytest.approx(best["loss"], rel=1e-5)
    assert best["milliseconds"] <= 0.5 * notes["whole_ms"]


def test_the_whole_composition_is_the_model():
    model, ctx = trained(), context()
    same = Composition.noop().finish(Composition.noop().attach(model, ctx), ctx)
    torch.testing.assert_close(logits(same), logits(model), atol=1e-5, rtol=0)
    assert same.blueprint.total_parameters == model.blueprint.total_parameters


def test_each_batch_trains_one_composition_and_resumes_by_step(tmp_path, monkeypatch):
    teacher = trained()
    ctx, method = context(teacher), Composition()
    drawn = []
    original = Space.draw
    monkeypatch.setattr(Space, "draw", lambda self, g=None: drawn.append(original(self, g)) or drawn[-1])

    def fit(folder):
        model = method.attach(teacher, ctx)
        settings = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3, precision="float32", log_points=1000)
        return train(
            model, task=TASK, data=DATA, tokenizer=TOKENIZER, settings=settings, folder=folder,
            teacher=Teacher(teacher), objectives=method.objectives(ctx), passes=method.passes(ctx), progress="none",
        )  # fmt: skip

    first = fit(tmp_path / "a")
    assert len(drawn) == 12
    assert len(set(drawn)) == 12
    assert set(first.log[0]["terms"]) == {"logits"}
    again = fit(tmp_path / "b")
    assert drawn[:12] == drawn[12:]
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": [0.5, 0.25, 1.0]}, r"heads=\[0.5, 0.25, 1.0\] must increase and end with 1"),
        ({"neurons": [0.5]}, r"neurons=\[0.5\] must increase and end with 1"),
        ({"latency": 0}, r"latency=0 must be in \(0, 1\]"),
    ],
)
def test_mistakes_are_named(fields, message):
    stage = {"name": "only", "use": [{"prune/composition": fields}], "train": {}}
    with pytest.raises(RecipeError, match=message):
        Recipe.parse({"name": "test", "stages": [stage]})


def test_a_cap_below_the_least_composition_is_refused():
    with pytest.raises(
        RecipeError, match=r"prune/composition: latency=0.01: the least composition takes 0.6 ms, above"
    ):
        Composition(latency=0.01).finish(trained(), context())

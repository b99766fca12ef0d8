"""The schedule at its turning points, when masks move, and which weights are meant."""

from types import SimpleNamespace

import pytest
import torch
from short_training import tiny

from bertpress.errors import RecipeError
from bertpress.methods.sparsity import Gradual, Sparsifier, Thinning, best, largest_weights
from bertpress.recipe import Recipe


def test_the_schedule_is_cubic_between_shares_of_the_run():
    method = Gradual(begin=0.2, end=0.6)
    values = [method.at(step, 100, initial=1.0, final=0.2) for step in (0, 20, 40, 60, 99)]
    assert values == pytest.approx([1.0, 1.0, 0.2 + 0.8 / 8, 0.2, 0.2])
    at_once = Gradual(begin=0.3, end=0.3)
    assert [at_once.at(step, 10, initial=1.0, final=0.2) for step in (2, 3)] == [1.0, 0.2]


def test_a_schedule_cannot_end_before_it_begins():
    stage = {"use": [{"prune/magnitude": {"begin": 0.8, "end": 0.5}}], "train": {}}
    with pytest.raises(RecipeError, match=r"prune/magnitude: begin=0.8 must be at most end=0.5"):
        Recipe.parse({"name": "test", "stages": [stage]})


def seen(callback, steps, start=0):
    pruned = []
    callback.prune = lambda model, share: pruned.append((state.global_step, share))
    state = SimpleNamespace(max_steps=steps)
    for state.global_step in range(start, steps):
        callback.on_step_begin(None, state, None, model=object())
    return pruned


def test_masks_move_every_few_steps_and_rest_once_the_final_share_is_reached():
    def callback():
        return Thinning(Gradual(begin=0.1, end=0.55), 0.4, 10, None)

    pruned = seen(callback(), 100)
    assert [step for step, _ in pruned] == [20, 30, 40, 50, 55]
    shares = [share for _, share in pruned]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0.4
    again = callback()
    again.load_state_dict({"share": shares[2]})
    assert seen(again, 100, start=41) == pruned[3:]
    assert again.state_dict() == {"share": 0.4}


def test_weights_by_kind():
    model = tiny()
    matrices = [f"encoder.layers.0.attention.{part}.weight" for part in ("query", "key", "value", "output")]
    matrices += [f"encoder.layers.0.ffn.0.{part}.weight" for part in ("inner", "outer")]
    assert Sparsifier(pooler=False).weights(model) == matrices
    assert Sparsifier().weights(model) == [*matrices, "head.dense.weight"]
    assert Sparsifier(pooler=False, tables=["position"]).weights(model)[6:] == ["encoder.embeddings.position.weight"]


def test_ranked_alone_or_together():
    scores = {"a": torch.tensor([4.0, 3.0]), "b": torch.tensor([1.0, 2.0])}
    assert {name: kept.tolist() for name, kept in best(scores, 0.5, "uniform").items()} == {
        "a": [True, False],
        "b": [False, True],
    }
    assert best(scores, 0.5, "global")["a"].all()
    assert best(scores, 0.5, "global", floor=0.5)["b"].tolist() == [False, True]


def test_zeros_are_not_kept_even_if_too_little_is_left():
    model = tiny()
    name = "encoder.layers.0.attention.query.weight"
    model.get_parameter(name).data[4:] = 0
    assert int(largest_weights(model, [name], 0.5)[name].sum()) == 4 * 16
    assert int(largest_weights(model, [name], 0.1)[name].sum()) == round(0.1 * 256)

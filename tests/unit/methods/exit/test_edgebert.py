"""EdgeBERT: tables that never fall and, when conservative, never bound a fitted text below its true exit."""

import numpy as np
import pytest
import torch
from exit_training import assert_only_exits_moved, batch, train

from bertpress.encoder.leaving import bound, chosen_exits, uncertainty
from bertpress.methods.exit.edgebert import Edgebert, fit_table


def test_a_table_by_hand():
    unsure, layers = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), np.array([1, 2, 1, 1, 4, 3])
    late = fit_table(0.3, unsure, layers, bins=3, conservative=True)
    assert late.layers == (2, 2, 4)  # the middle bin says 1, and may not fall
    mean = fit_table(0.3, unsure, layers, bins=3, conservative=False)
    assert mean.layers == (2, 2, 4)  # 1.5 and 3.5 are rounded up
    assert late.edges == (0.3, 0.5)
    assert fit_table(0.3, unsure, layers, bins=1, conservative=True).layers == (4,)


@pytest.mark.parametrize("bins", [1, 4, 16, 64])
@pytest.mark.parametrize("seed", range(5))
def test_conservative_bounds_are_never_below_the_true_exit(bins, seed):
    random = np.random.default_rng(seed)
    unsure, layers = random.random(100).round(2), random.integers(1, 7, 100)
    table = fit_table(0.5, unsure, layers, bins=bins, conservative=True)
    assert (bound(table, unsure) >= layers).all()
    assert list(table.layers) == sorted(table.layers)


def fitted(**fields):
    method = Edgebert(examples=40, bins=4, **fields)
    before, model = train(method, 20)
    given = batch(9, rows=40)  # what the context calibrates on
    with torch.no_grad():
        out = model(given["input_ids"], given["attention_mask"])
    return before, model, torch.stack([*out.captured["exits"], out.logits], 1).numpy()


def test_conservative_tables_change_no_text_that_they_were_fitted_on():
    before, model, answers = fitted()
    assert_only_exits_moved(before, model)
    rule, exits = model.blueprint.exit, model.blueprint.exits
    alone = rule.model_copy(update={"tables": ()})
    assert rule.tables
    for table in rule.tables:
        true = chosen_exits(alone, table.speed, exits, answers)
        assert np.array_equal(chosen_exits(rule, table.speed, exits, answers), true)
        assert (bound(table, uncertainty(answers[:, 0])) >= np.asarray(exits)[true]).all()


def test_without_predictor_it_is_deebert():
    _, model, _ = fitted(predictor=False)
    assert model.blueprint.exit.tables == ()
    assert model.blueprint.exit.criterion == "entropy"

"""What counts as agreement."""

import numpy as np
import pytest
import torch
from uneven_models import int8, mixed

from bertpress.errors import BertpressError
from bertpress.export import openvino, parity


def test_probes_have_pads_of_unequal_number_and_single_tokens():
    batches = parity.probes(mixed())
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(1, 1), (1, 17), (3, 32), (5, 61)]
    last = batches[-1]
    lengths = last["attention_mask"].sum(1)
    assert lengths.max() == 61
    assert len(lengths.unique()) > 1
    assert (last["input_ids"][last["attention_mask"] == 0] == 0).all()
    assert (last["input_ids"][last["attention_mask"] == 1] != 0).all()


def test_labels_of_each_kind():
    logits = np.array([[0.1, 2.0, -1.0], [3.0, 0.0, 0.0]])
    assert parity.labels(mixed(), logits).tolist() == [1, 0]
    several = mixed()
    several.config.problem_type = "multi_label_classification"
    assert parity.labels(several, logits).tolist() == [[True, True, False], [True, False, False]]
    span = np.zeros((1, 4, 2))
    span[0, 2, 0] = span[0, 3, 1] = 1
    assert parity.labels(mixed("span"), span).tolist() == [[2, 3]]
    assert parity.labels(mixed("embedding"), logits).size == 0


def test_another_model_is_found_out(exported):
    model, folder = exported["float"]
    parity.check(model, folder, "openvino")
    other = mixed()
    other.head.classifier.bias.data[1] += 0.01
    found = parity.parity(other, folder, "openvino")
    assert found.logit_difference == pytest.approx(0.01, abs=1e-4)
    with pytest.raises(BertpressError, match=r"openvino differs from the model by 0\.01, must be at most 0\.0001"):
        parity.check(other, folder, "openvino")


def test_integers_are_only_reported(exported):
    _, folder = exported["float"]
    assert parity.check(int8(mixed()), folder, "openvino").logit_difference > 1e-4


def test_pads_do_not_count_and_the_mode_stays(tmp_path):
    model = mixed("token").train()
    openvino.export(model, tmp_path)
    batch = {"input_ids": torch.tensor([[5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    found = parity.parity(model, tmp_path, "openvino", [batch])
    assert found.compared == 2
    assert found.logit_difference < 1e-5
    assert model.training


def test_a_millionth_moves_a_float_model_by_as_much_and_integers_by_steps_of_their_grid():
    exact = mixed()
    batches = parity.probes(exact)
    before = {name: value.clone() for name, value in exact.state_dict().items()}
    found = parity.repeatability(exact, batches)
    assert 0 < found.logit_difference < 1e-4
    assert (found.label_agreement, found.compared) == (100.0, 10)
    assert all(torch.equal(value, before[name]) for name, value in exact.state_dict().items())
    with torch.no_grad():
        exact.encoder.embeddings.norm.weight.zero_()  # a scale of zero cannot grow
    assert parity.repeatability(exact, batches).logit_difference == 0

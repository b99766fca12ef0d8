"""Chia et al.: each layer adds a convolution of its input to it, and the maximum is over real tokens alone."""

import pytest
import torch
import torch.nn.functional as F
from student_teachers import BATCH, context, teacher

from bertpress.errors import RecipeError
from bertpress.methods.student.cnn import Cnn


@torch.no_grad()
def test_logits_by_hand():
    model = Cnn(layers=2, hidden_size=16, dense=6).attach(teacher(), context())
    found = model(**BATCH).logits
    for row, length in enumerate((7, 5)):
        x = model.encoder.embeddings(BATCH["input_ids"][row : row + 1, :length], None)
        for layer in model.encoder.layers:
            weight = layer.mixer.dense.weight.unflatten(1, (3, 16)).transpose(1, 2)
            y = F.conv1d(x.transpose(1, 2), weight, layer.mixer.dense.bias, padding=1).transpose(1, 2)
            x = layer.mixer.norm(x + y.relu())
        expected = model.head.classifier(model.head.dense(x.amax(1)).relu())
        torch.testing.assert_close(found[row : row + 1], expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_texts_shorter_than_what_it_sees_work(tokens):
    model = Cnn(layers=3, hidden_size=16, kernel=7).attach(teacher(), context())
    ids = torch.full((1, tokens), 9)
    alone = model(ids).logits
    padded = model(F.pad(ids, (0, 9)), attention_mask=F.pad(torch.ones_like(ids), (0, 9))).logits
    torch.testing.assert_close(padded, alone, atol=1e-6, rtol=0)
    assert alone.isfinite().all()


def test_the_parameters_of_a_layer():
    model = Cnn(layers=3, hidden_size=16, kernel=5).attach(teacher(), context())
    assert model.blueprint.parameters()["mixer"] == 3 * (5 * 16 * 16 + 16 + 2 * 16)


def test_even_kernels_are_refused():
    with pytest.raises(RecipeError, match="student/cnn: kernel=4 must be odd"):
        Cnn(kernel=4).attach(teacher(), context())

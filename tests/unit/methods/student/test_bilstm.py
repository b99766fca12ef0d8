"""Tang et al.: parameters and pooled states by hand, pairs compared both ways, and it learns what order decides."""

import torch
from student_teachers import BATCH, context, teacher

from bertpress.encoder.blueprint import HeadSpec
from bertpress.methods.student.bilstm import Bilstm


def test_parameters_by_hand():
    model = teacher()
    built = Bilstm(units=300, dense=400, embedding_size=32).attach(model, context())
    units, width = 300, 600
    lstm = 2 * 4 * units * (width + units + 1)
    head = 400 * width + 400 + 2 * 400 + 2
    assert built.blueprint.parameters()["mixer"] == lstm
    assert built.blueprint.parameters_without_embeddings == lstm + head


def test_the_last_state_of_each_direction_is_read():
    model = Bilstm(units=8, layers=2).attach(teacher(), context())
    assert len(model.encoder.layers) == 2
    with torch.no_grad():
        hidden = model(**BATCH, capture=frozenset({"hidden_states"})).hidden_states[-1]
        states = torch.stack(
            [torch.cat([hidden[0, 6, :8], hidden[0, 0, 8:]]), torch.cat([hidden[1, 4, :8], hidden[1, 0, 8:]])]
        )
        expected = model.head.classifier(model.head.dense(states).relu())
        torch.testing.assert_close(model(**BATCH).logits, expected, atol=1e-6, rtol=0)


def test_a_side_of_a_pair_is_encoded_as_if_it_were_alone():
    model = Bilstm(units=8).attach(teacher("pair"), context("pair"))
    assert model.blueprint.head == HeadSpec(
        kind="sequence", labels=2, pooling="ends", dense_size=200, activation="relu", siamese=True
    )
    pooled = {}
    model.head.dense.register_forward_pre_hook(lambda _, args: pooled.update(pair=args[0]))
    with torch.no_grad():
        model(**BATCH)
        pair = pooled["pair"]
        swapped = {
            "input_ids": torch.tensor([[21, 22, 3, 2, 11, 12, 3]]),
            "attention_mask": torch.ones(1, 7, dtype=torch.long),
            "token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1, 1]]),
        }
        model(**swapped)
    h1, h2, product, distance = pair[:1].chunk(4, dim=-1)
    expected = torch.cat([h2, h1, product, distance], -1)
    torch.testing.assert_close(pooled["pair"], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(product, h1 * h2)
    torch.testing.assert_close(distance, (h1 - h2).abs())


def test_it_learns_which_of_two_words_comes_first():
    """No bag of words can tell; the loss is the squared error of the logits, as in the paper."""
    model = Bilstm(units=8, dense=16, dropout=0.0, start="random").attach(teacher(), context())
    random = torch.Generator().manual_seed(0)
    fill = torch.randint(10, 40, (64, 8), generator=random)
    first, second = torch.randint(0, 4, (64,), generator=random), torch.randint(4, 8, (64,), generator=random)
    label = torch.arange(64) % 2
    rows = torch.arange(64)
    fill[rows, first], fill[rows, second] = 5 + label, 6 - label
    target = torch.where(label[:, None] == torch.arange(2), 2.0, -2.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(60):
        loss = (model(fill).logits - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    assert (model.eval()(fill).logits.argmax(-1) == label).all()

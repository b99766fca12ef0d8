"""Embeddings by hand, and the map between widths."""

import pytest
import torch
from matched_models import padded, step_of, terms_of, tiny, value_of

from bertpress.methods.distill.embeddings import Embeddings


def test_only_the_embeddings_count_through_the_map_of_the_narrower_side():
    student, teacher, batch = tiny(0, hidden_size=8), tiny(1), padded(1)
    for side in ("student", "teacher"):
        (term,), state = terms_of(Embeddings(project=side), student, teacher)
        assert (term.name, term.teacher_places) == ("embeddings", {0})
        (weight,) = state.parameters()
        assert weight.shape == {"student": (16, 8), "teacher": (8, 16)}[side]
        with torch.no_grad():
            own, target = (m.encoder.embeddings(batch["input_ids"], None) for m in (student, teacher))
        a, b = (own @ weight.T, target) if side == "student" else (own, target @ weight.T)
        real = batch["attention_mask"].bool()
        expected = (a - b)[real].square().mean()
        torch.testing.assert_close(term(step_of([term], student, teacher, batch)), expected)
        value_of([term], student, teacher, batch).backward()
        assert weight.grad.any()
        assert all(w.grad is None for w in student.encoder.layers.parameters())
        student.zero_grad()


def test_equal_widths_need_no_map():
    _, state = terms_of(Embeddings(), tiny(0), tiny(1))
    assert list(state.parameters()) == []


def test_a_planted_map_is_found():
    """Where the teacher's embeddings are an orthogonal image of the student's, the map becomes that image."""
    student, teacher = tiny(0, hidden_size=8, vocabulary=60), tiny(1)
    torch.manual_seed(3)
    image = torch.nn.init.orthogonal_(torch.empty(16, 8))
    states = torch.randn(64, 5, 8)
    (term,), state = terms_of(Embeddings(), student, teacher)
    pairs = state["embeddings"]
    optimizer = torch.optim.Adam(state.parameters(), lr=0.02)
    for _ in range(400):
        ((a, b),) = pairs([states], [states @ image.T])
        loss = term.distance(student=a, teacher=b, mask=torch.ones(64, 5))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(pairs.projections[0].weight.detach(), image, atol=1e-3, rtol=0)
    assert loss.item() == pytest.approx(0, abs=1e-6)

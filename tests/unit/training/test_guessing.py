"""Only the positions to guess count, with the numbers of a whole masked language model."""

import pytest
import torch
import torch.nn.functional as F
from sample_run import make_data, make_model

from bertpress import tasks
from bertpress.methods.base import Context
from bertpress.methods.distill.logits import Logits
from bertpress.training import Teacher, collate_for
from bertpress.training.guessing import guesses_for, split
from bertpress.training.objectives import Step, total

TASK, DATA, _, TOKENIZER = make_data("masked-lm", count=8)
BATCH = collate_for(TOKENIZER)([DATA[i] for i in range(8)])
GUESSED = BATCH["labels"] != -100
CLASSIFY = tasks.resolve("sst2").replace(labels=("negative", "positive"))


def inputs():
    return {name: BATCH[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


def masked_lm(seed=0, **shape):
    return make_model(TASK, TOKENIZER, seed=seed, **shape)


def step(student, teacher):
    """A step of a classifier that guesses, beside a masked language model."""
    guesses = guesses_for(student, teacher, seed=0)
    output = student(**inputs())
    output.logits = guesses(output, BATCH)
    alone, answer = split(teacher)
    return Step(BATCH, output, Teacher(alone, answer=answer)(BATCH), TASK, torch.nn.ModuleDict())


def test_guesses_are_those_of_the_whole_model_at_the_masked_positions():
    model = masked_lm()
    whole = model(**inputs()).logits
    alone, answer = split(model)
    output = alone(**inputs())
    assert output.logits is None
    torch.testing.assert_close(answer(output, BATCH), whole[GUESSED], atol=1e-6, rtol=0)
    assert len(answer(output, BATCH)) == int(GUESSED.sum()) < BATCH["attention_mask"].sum()
    assert model.head is not None
    torch.testing.assert_close(Teacher(alone, answer=answer)(BATCH).logits, whole[GUESSED], atol=1e-6, rtol=0)


def test_their_loss_is_that_of_the_whole_model():
    logits = masked_lm()(**inputs()).logits
    by_hand = F.cross_entropy(logits.flatten(0, 1), BATCH["labels"].flatten(), ignore_index=-100)
    torch.testing.assert_close(tasks.loss(TASK, logits[GUESSED], BATCH), by_hand)
    none = {"labels": torch.full_like(BATCH["labels"], -100)}
    assert tasks.loss(TASK, logits[:0, 0], none) == 0


def test_only_masked_positions_have_a_gradient():
    model = masked_lm()
    alone, answer = split(model)
    output = alone(**inputs())
    output.last_hidden_state.retain_grad()
    tasks.loss(TASK, answer(output, BATCH), BATCH).backward()
    reached = output.last_hidden_state.grad.abs().sum(-1) > 0
    assert torch.equal(reached, GUESSED)
    assert model.encoder.embeddings.word.weight.grad is not None  # the decoder is tied


def test_a_head_is_taken_over_where_it_fits():
    source = masked_lm(seed=4)
    student = make_model(CLASSIFY, TOKENIZER, seed=1, layers=1)
    taken = guesses_for(student, source, seed=0).head
    assert all(torch.equal(value, source.head.state_dict()[name]) for name, value in taken.state_dict().items())
    narrow = make_model(CLASSIFY, TOKENIZER, seed=1, hidden=8)
    for other in (source, None):
        first, again, third = (guesses_for(narrow, other, seed=seed).head.dense.weight for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, third)
        assert first.shape == (8, 8)
    assert taken.table() is student.encoder.embeddings.word.weight


def test_lambda_shares_out_likelihood_and_divergence():
    """LightPAFF: (1 - lambda) MLM + lambda KL; 0 is pure likelihood, and 1 is zero where student equals teacher."""
    teacher = masked_lm(seed=2)
    student = make_model(CLASSIFY, TOKENIZER, seed=1)
    seen = step(student, teacher)
    ctx = Context(task=CLASSIFY, tokenizer=None, seed=0, unlabelled=True)
    likelihood = F.cross_entropy(seen.student.logits, BATCH["labels"][GUESSED])
    p, q = seen.teacher.logits.softmax(-1), seen.student.logits.softmax(-1)
    divergence = (p * (p.log() - q.log())).sum(-1).mean()
    for share in (0.0, 0.3, 1.0):
        terms = Logits(alpha=share, temperature=1.0).objectives(ctx)
        loss, _ = total(terms, seen)
        torch.testing.assert_close(loss, (1 - share) * likelihood + share * divergence)
    same = make_model(CLASSIFY, TOKENIZER, seed=1)
    same.encoder.load_state_dict(teacher.encoder.state_dict())
    loss, _ = total(Logits(alpha=1.0, temperature=1.0).objectives(ctx), step(same, teacher))
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert divergence > 1e-4

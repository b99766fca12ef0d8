"""The term is the cross-entropy of the masked words by hand, weighted; what is scored is tested with the training."""

from types import SimpleNamespace

import pytest
import torch

from bertpress.methods.base import Context
from bertpress.methods.distill.logits import Logits
from bertpress.methods.distill.mlm import Mlm
from bertpress.tasks import resolve
from bertpress.training.objectives import Step, total


def test_three_terms_of_distilbert_by_hand():
    labels = torch.tensor([[-100, 2, -100], [0, -100, -100]])
    own = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    target = torch.tensor([[0.0, 0.0, 2.0], [2.0, 0.0, 0.0]])
    answers = [SimpleNamespace(logits=logits) for logits in (own, target)]
    step = Step({"labels": labels}, *answers, resolve("masked-lm"), torch.nn.ModuleDict())
    ctx = Context(task=resolve("sst2"), tokenizer=None, seed=0, unlabelled=True)
    methods = (Logits(alpha=1.0, temperature=2.0, loss="ce", weight=5.0), Mlm(weight=2.0))
    loss, terms = total([term for method in methods for term in method.objectives(ctx)], step)
    likelihood = (-own[0].log_softmax(-1)[2] - own[1].log_softmax(-1)[0]) / 2
    soft = -((target / 2).softmax(-1) * (own / 2).log_softmax(-1)).sum(-1).mean() * 4
    assert terms["mlm"].item() == pytest.approx(likelihood.item())
    assert loss.item() == pytest.approx((5 * soft + 2 * likelihood).item())


def test_whose_guesses_are_read():
    assert Mlm().guessers() == {"student"}
    assert Logits(alpha=0.0).guessers() == {"student"}
    assert Logits(alpha=0.1).guessers() == {"student", "teacher"}

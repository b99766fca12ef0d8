"""Scores, maps and what heads hold, of the layers that meet; other heads in one line."""

import pytest
import torch
from matched_models import context, padded, step_of, terms_of, tiny, value_of

from bertpress.encoder.surgery import keep_head_width, keep_heads, keep_layers
from bertpress.errors import RecipeError
from bertpress.methods.distill.attention import Attention

TARGETS = ("scores", "maps", "contexts", "queries", "keys", "values")


def by_hand(target, own, other, lengths=(5, 3)):
    """The distance of one pair of layers, row by row without its pads."""
    found = []
    for row, n in enumerate(lengths):
        a, b = own[row, :, :n], other[row, :, :n]
        if target in ("scores", "maps"):
            a, b = a[..., :n], b[..., :n]
        if target == "maps":
            p, q = b.softmax(-1), a.softmax(-1)
            found.append((p * (p / q).log()).sum(-1).flatten())
        else:
            found.append((a - b).square().flatten())
    return torch.cat(found).mean()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("layer_map", "pairs"), [("uniform", [(0, 1), (1, 3)]), ("final", [(1, 3)]), ((4,), [(0, 3)])])
def test_the_sum_over_the_layers_that_meet(target, layer_map, pairs):
    student, teacher = tiny(0), tiny(1, layers=4)
    (term,), _ = terms_of(Attention(targets=(target,), layer_map=layer_map), student, teacher)
    assert term.teacher_places == {theirs for _, theirs in pairs}
    step = step_of([term], student, teacher, padded(2))
    (name,) = term.captures
    own, target_states = step.student.captured[name], step.teacher.captured[name]
    expected = sum(by_hand(target, own[mine], target_states[theirs]) for mine, theirs in pairs)
    torch.testing.assert_close(term(step), expected)


def test_scores_and_maps_are_what_the_tape_says():
    student, teacher = tiny(0), tiny(1)
    terms, _ = terms_of(Attention(targets=("maps",), layer_map="final"), student, teacher)
    inputs = {name: tensor for name, tensor in padded().items() if name != "labels"}
    with torch.no_grad():
        maps = [model(**inputs, output_attentions=True).attentions[-1] for model in (student, teacher)]
    own, other = (each[0] for each in maps)  # the first row has no pads
    kl = (other * (other / own).log()).sum(-1).mean()
    alone = {name: tensor[:1] for name, tensor in padded().items()}
    torch.testing.assert_close(value_of(terms, student, teacher, alone), kl)


def test_a_term_for_each_target_and_each_once():
    terms, _ = terms_of(Attention(targets=("scores", "maps", "scores", "values")), tiny(0), tiny(1))
    assert [term.name for term in terms] == ["attention_scores", "attention_maps", "attention_values"]


def test_heads_may_have_another_width_for_scores_and_maps_alone():
    student, teacher = tiny(0, hidden_size=8), tiny(1)
    terms, _ = terms_of(Attention(targets=("scores", "maps")), student, teacher)
    assert value_of(terms, student, teacher, padded()).isfinite()
    words = (
        r"^distill/attention: contexts have 4 dimensions in a head of the student's layer 1, 8 in one of the teacher's"
    )
    with pytest.raises(RecipeError, match=words + " layer 1; compare scores or maps$"):
        Attention(targets=("scores", "contexts")).attach(student, context(teacher))
    narrow = keep_head_width(tiny(0), {0: ([[0, 1, 2]] * 2, [range(8)] * 2)})
    Attention(targets=("values",)).attach(narrow, context(teacher))
    with pytest.raises(RecipeError, match="queries have 3 dimensions"):
        Attention(targets=("queries",)).attach(narrow, context(teacher))


def test_other_heads_are_refused_in_one_line():
    teacher = tiny(1, layers=4)
    narrow = keep_heads(tiny(0), {1: [0]})
    words = (
        r"^distill/attention: layer 2 of the student has 1 heads, layer 4 of the teacher 2; give both as many, "
        r"or choose other layers by layer_map$"
    )
    with pytest.raises(RecipeError, match=words):
        Attention().attach(narrow, context(teacher))
    terms, _ = terms_of(Attention(layer_map=(4,)), narrow, teacher)
    assert value_of(terms, narrow, teacher, padded()).item() > 0


def test_layers_without_heads_are_counted_but_cannot_meet():
    whole = tiny(1, layers=4)
    teacher = keep_heads(whole, {0: []})
    student = keep_layers(whole, [1, 2])
    terms, _ = terms_of(Attention(layer_map=(2, 3), targets=("queries",)), student, teacher)
    assert terms[0].teacher_places == {0, 1}
    assert terms[0](step_of(terms, student, teacher, padded())).item() > 0
    with pytest.raises(RecipeError, match="layer 1 of the student has 2 heads, layer 1 of the teacher 0"):
        Attention(layer_map=(1, 2)).attach(student, context(teacher))
    with pytest.raises(RecipeError, match="layer 1 of the student has 0 heads, layer 1 of the teacher 0"):
        Attention(layer_map=(1, 2)).attach(teacher, context(teacher))

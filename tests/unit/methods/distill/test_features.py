"""The output of each matrix against the product itself; other shapes in one line."""

import pytest
import torch
from matched_models import context, padded, step_of, terms_of, tiny

from bertpress.encoder.surgery import keep_heads, keep_layers, keep_neurons
from bertpress.errors import RecipeError
from bertpress.methods.distill.features import Features

MATRICES = {
    "queries": "attention.query",
    "keys": "attention.key",
    "values": "attention.value",
    "attention_outputs": "attention.output",
    "ffn_inner": "ffn.0.inner",
    "ffn_outer": "ffn.0.outer",
}


def outputs(model, batch):
    """What each matrix gives, (batch, tokens, width), by hooks."""
    found, hooks = {}, []
    for i, layer in enumerate(model.encoder.layers):
        for path in MATRICES.values():
            module = layer.get_submodule(path)
            keep = lambda _, args, out, key=(i, path): found.update({key: out.clone()})  # noqa: E731
            hooks.append(module.register_forward_hook(keep))
    with torch.no_grad():
        model(batch["input_ids"], batch["attention_mask"])
    for hook in hooks:
        hook.remove()
    return found


def test_each_term_is_the_error_of_one_kind_of_matrix_summed_over_the_layers():
    student, teacher, batch = tiny(0), tiny(1), padded(2)
    terms, _ = terms_of(Features(), student, teacher)
    assert [term.name for term in terms] == list(MATRICES)
    own, target = outputs(student, batch), outputs(teacher, batch)
    real = batch["attention_mask"].bool()
    step = step_of(terms, student, teacher, batch)
    for term in terms:
        keys = [(i, MATRICES[term.name]) for i in range(2)]
        expected = sum((own[key] - target[key])[real].square().mean() for key in keys)
        torch.testing.assert_close(term(step), expected)


def test_one_perturbed_matrix_is_seen_by_its_own_term():
    teacher, student = tiny(1), tiny(1)
    student.encoder.layers[1].ffn[0].outer.bias.data += 0.5  # the last matrix: nothing behind it changes
    terms, _ = terms_of(Features(), student, teacher)
    step = step_of(terms, student, teacher, padded())
    found = {term.name: term(step).item() for term in terms}
    assert found == {name: pytest.approx(0.25 if name == "ffn_outer" else 0, abs=1e-6) for name in MATRICES}


def test_some_kinds_alone():
    terms, _ = terms_of(Features(modules=("values", "ffn_inner", "values")), tiny(0), tiny(1))
    assert [term.name for term in terms] == ["values", "ffn_inner"]


@pytest.mark.parametrize(
    "cut",
    [
        lambda model: keep_layers(model, [0]),
        lambda model: keep_heads(model, {0: [1]}),
        lambda model: keep_neurons(model, {(1, 0): [0, 1]}),
        lambda _: tiny(0, hidden_size=8),
    ],
)
def test_another_shape_is_refused_in_one_line(cut):
    words = "^distill/features: needs a student with the teacher's layers, heads and widths; distill/hidden and "
    with pytest.raises(RecipeError, match=words):
        Features().attach(cut(tiny(0)), context(tiny(1)))

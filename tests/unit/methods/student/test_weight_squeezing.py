"""By hand; products are what was trained; who learns; identities are the teacher; scale; shared maps; what is left."""

import pytest
import torch
from short_training import batch, context, tiny, train

from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import keep_neurons, share
from bertpress.encoder.transforms import transforms
from bertpress.errors import RecipeError
from bertpress.methods.student.weight_squeezing import (
    HIDDEN,
    Squeezed,
    WeightSqueezing,
    axes_of,
    first_map,
    gated,
    squeezed,
)
from bertpress.methods.transform import bake

HALF = {"hidden_size": 8, "heads": 1, "ffn": 12}
VARIANTS = pytest.mark.parametrize("fields", [{}, {"gated": True}, {"shared": True}, {"gated": True, "shared": True}])


def shaken(seed=1):
    """A teacher whose norms and biases are not neutral."""
    model = tiny(2, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def attached(model=None, **fields):
    return WeightSqueezing(**HALF | fields).attach(model or shaken(), context())


def squeezes(model):
    return {name: transforms(model, name)[0] for name, _ in model.unique_weights() if transforms(model, name)}


def moved(model):
    """The same model, with maps and gates away from where they begin."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        if ".parametrizations." in name:
            weight.data += 0.2 * torch.randn(weight.shape, generator=generator)
    return model


def logits(model):
    inputs = batch()
    with torch.no_grad():
        return model(inputs["input_ids"], inputs["attention_mask"]).logits


def test_products_by_hand():
    weight = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    left, right = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    assert squeezed(weight, left, right).tolist() == [[-6.0, -9.0]]
    assert squeezed(weight, None, right).tolist() == [[4.0, 7.0], [10.0, 16.0]]
    assert squeezed(torch.tensor([2.0, 5.0]), left, None).tolist() == [-3.0]
    own, mapped = torch.tensor([10.0, 10.0]), torch.tensor([2.0, 2.0])
    gate = torch.tensor([0.0, 3.0]).log()  # sigmoids of 0 and 3/4
    assert gated(own, mapped, gate).tolist() == [2.0, 8.0]


def test_axes_are_common_to_what_is_multiplied():
    model = tiny(2)
    found = {name: axes_of(model.blueprint, name, weight) for name, weight in model.unique_weights()}
    first, second = "encoder.layers.0", "encoder.layers.1"
    assert found[f"{first}.attention.query.weight"] == [f"{first}.queries", HIDDEN]
    assert found[f"{first}.attention.key.bias"] == [f"{first}.queries"]
    assert found[f"{second}.attention.value.weight"] == [f"{second}.values", HIDDEN]
    assert found[f"{second}.attention.output.weight"] == [HIDDEN, f"{second}.values"]
    assert found[f"{second}.attention.output.bias"] == found[f"{second}.attention.norm.weight"] == [HIDDEN]
    assert found[f"{first}.ffn.0.inner.weight"] == [f"{first}.ffn.0.neurons", HIDDEN]
    assert found[f"{first}.ffn.0.inner.bias"] == [f"{first}.ffn.0.neurons"]
    assert found[f"{first}.ffn.0.outer.weight"] == [HIDDEN, f"{first}.ffn.0.neurons"]
    assert found[f"{first}.ffn.0.outer.bias"] == found[f"{first}.ffn.0.norm.bias"] == [HIDDEN]
    assert found["encoder.embeddings.word.weight"] == [None, HIDDEN]
    assert found["head.dense.weight"] == [HIDDEN, HIDDEN]
    assert found["head.classifier.weight"] == [None, HIDDEN]
    assert found["head.classifier.bias"] == [None]


@VARIANTS
def test_baked_it_computes_what_was_trained(fields):
    model = moved(attached(**fields))
    before = logits(model)
    bake(model)
    model = WeightSqueezing(**HALF | fields).finish(model, context())
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=0)


@VARIANTS
def test_nothing_of_maps_and_teacher_is_left(fields):
    model = train(shaken(), WeightSqueezing(**HALF | fields), context(), steps=3)
    shape = model.blueprint
    assert model.state_dict().keys() == build_model(shape).state_dict().keys()
    assert sum(weight.numel() for weight in model.state_dict().values()) == shape.total_parameters
    assert (shape.hidden_size, len(shape.layers[0].attention.heads), shape.layers[0].ffn) == (8, 1, (12,))
    assert all(weight.requires_grad for weight in model.parameters())


def test_the_teacher_is_in_no_checkpoint():
    theirs = {(40, 16), (24, 16), (16, 24)}  # sizes of tables and matrices that neither student nor maps have
    assert theirs <= {tuple(weight.shape) for weight in shaken().parameters()}
    assert not theirs & {tuple(weight.shape) for weight in attached(gated=True).state_dict().values()}


@VARIANTS
def test_who_learns(fields):
    """Maps, and gates and own weights where there are gates; the teacher and what nothing reads do not."""
    teacher = shaken()
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    seen = {}

    def look(step, model):
        seen[step] = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    train(teacher, WeightSqueezing(**HALF | fields), context(), steps=2, look=look)
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    assert not any(weight.grad is not None for weight in teacher.parameters())
    for name, weight in seen[1].items():
        changed = not torch.equal(weight, seen[0][name])
        if name.endswith(".original") and not fields.get("gated"):
            assert not changed, name
        elif "attention.key.parametrizations.bias" not in name:  # moves all scores of a query alike
            assert changed, name


@VARIANTS
def test_identity_maps_are_the_teacher(fields):
    model = shaken()
    whole = {"hidden_size": None, "heads": None, "ffn": None}
    student = WeightSqueezing(**whole | fields).attach(model, context())
    assert torch.equal(logits(student), logits(model))
    assert all(torch.equal(effective(student, name), weight) for name, weight in model.unique_weights())


def effective(model, name):
    """A weight as it computes."""
    owner, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(owner), attribute).detach()


def test_a_truncated_identity_takes_the_first_of_each_axis():
    model, student = shaken(), attached()
    outer, word, classifier = (
        "encoder.layers.1.ffn.0.outer.weight", "encoder.embeddings.word.weight", "head.classifier.weight"
    )  # fmt: skip
    assert torch.equal(effective(student, outer), model.get_parameter(outer)[:8, :12])
    assert torch.equal(effective(student, word), model.get_parameter(word)[:, :8])
    assert torch.equal(effective(student, classifier), model.get_parameter(classifier)[:, :8])


def test_orthogonal_maps_keep_the_scale():
    generator = torch.Generator().manual_seed(0)
    left, right = first_map(192, 384, "orthogonal", generator), first_map(96, 384, "orthogonal", generator)
    torch.testing.assert_close(left @ left.t(), torch.eye(192), atol=1e-5, rtol=0)
    weight = 0.05 * torch.randn(384, 384, generator=generator)
    assert squeezed(weight, left, right.t()).std().item() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("start", ["identity", "orthogonal"])
def test_maps_begin_alike_and_stay_one_where_shared(start):
    apart, one = (squeezes(attached(shared=shared, start=start)) for shared in (False, True))
    query, inner = "encoder.layers.0.attention.query.weight", "encoder.layers.1.ffn.0.inner.weight"
    key, word = "encoder.layers.0.attention.key.weight", "encoder.embeddings.word.weight"
    for found in (apart, one):
        assert torch.equal(found[query].right.weight, found[inner].right.weight)
        assert torch.equal(found[query].left.weight, found[key].left.weight)
    assert one[query].right is one[inner].right is one[word].right
    assert one[query].left is one[key].left
    assert apart[query].right is not apart[inner].right
    axes = 1 + 2 * 3  # hidden; queries, values and neurons of two layers
    assert len({id(side) for each in one.values() for side in (each.left, each.right) if side is not None}) == axes


def test_layers_of_a_teacher_that_shares_are_squeezed_each():
    model = share(shaken(), {1: 0})
    student = attached(model, layers=2)
    assert [layer.attention_from for layer in student.blueprint.layers] == [None, None]
    name = "encoder.layers.{}.attention.value.weight"
    found = squeezes(student)
    assert torch.equal(found[name.format(0)].product(), found[name.format(1)].product())


def test_only_chosen_layers_are_squeezed():
    student = attached(layers=1, which="bottom")
    name = "encoder.layers.{}.ffn.0.inner.weight"
    assert torch.equal(squeezes(student)[name.format(0)].weight, shaken().get_parameter(name.format(1)))


def test_a_rate_of_their_own():
    found = squeezes(attached(gated=True, map_learning_rate=0.01)).values()
    assert all(isinstance(each, Squeezed) and each.optimization.learning_rate == 0.01 for each in found)


@pytest.mark.parametrize(
    ("fields", "model", "message"),
    [
        ({"hidden_size": 9, "heads": 2}, shaken, "hidden_size=9 must be a multiple of heads=2"),
        ({"ffn": 25}, shaken, "ffn=25 must be at most the teacher's 24"),
        ({}, lambda: keep_neurons(shaken(), {(0, 0): []}), "needs layers with heads and neurons, without relative "
         "positions and bottlenecks"),
    ],
)  # fmt: skip
def test_what_cannot_be_squeezed_is_told(fields, model, message):
    with pytest.raises(RecipeError) as refused:
        attached(model(), **fields)
    assert str(refused.value) == f"student/weight_squeezing: {message}"

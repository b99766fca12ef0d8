"""The reference counts as the published model, NoNorm folds away, embeddings begin next to the teacher's."""

import pytest
import torch
import torch.nn.functional as F
from transformers import MobileBertConfig, MobileBertForSequenceClassification

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.imports import from_transformers
from bertpress.encoder.model import build_model
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.student.mobilebert import MobileBert, nearest_affine, projected_tokens
from bertpress.tasks import resolve

TASK = resolve("sst2").replace(labels=("negative", "positive"))
BATCH = {
    "input_ids": torch.randint(5, 50, (6, 7), generator=torch.Generator().manual_seed(0)),
    "attention_mask": (torch.arange(7) < torch.tensor([[7], [5], [3], [7], [1], [6]])).long(),
    "labels": torch.tensor([0, 1, 1, 0, 1, 0]),
}
INPUTS = {name: BATCH[name] for name in ("input_ids", "attention_mask")}
REFERENCE = {"bottleneck": 128, "embedding_size": 128, "ffn": 512}


def context(seed=0):
    return Context(task=TASK, tokenizer=None, seed=seed, calibration=lambda *_: [BATCH])


def teacher(seed=3, **shape):
    torch.manual_seed(seed)
    sizes = {"layers": 4, "hidden_size": 32, "heads": 4, "ffn": 64, "vocabulary": 50} | shape
    model = build_model(uniform(**sizes, head=HeadSpec(kind="sequence")))
    for weight in (model.encoder.embeddings.norm.weight, model.encoder.embeddings.norm.bias):
        weight.data += torch.randn_like(weight)
    return model


def answers(model):
    with torch.no_grad():
        return model(**INPUTS).logits


def test_the_reference_is_the_published_model():
    wide = uniform(layers=24, hidden_size=512, heads=4, ffn=2048, head=HeadSpec(kind="sequence"))
    shape = MobileBert(**REFERENCE).shape(wide)
    with torch.device("meta"):
        theirs = MobileBertForSequenceClassification(MobileBertConfig())
    assert shape.total_parameters == sum(weight.numel() for weight in theirs.parameters()) == 24_845_570
    assert shape == MobileBert().shape(wide)  # the defaults are its shares
    # published are 25.3 M; with the two heads of pre-training these would be 25.14 M
    assert shape.total_parameters == pytest.approx(25.3e6, rel=0.02)


def test_a_model_of_the_family_has_the_students_shape():
    config = MobileBertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=32,
        embedding_size=8, intra_bottleneck_size=8, max_position_embeddings=512,
    )  # fmt: skip
    imported = from_transformers(MobileBertForSequenceClassification(config)).blueprint
    made = MobileBert().shape(teacher().blueprint)
    assert made.layers == imported.layers
    assert made.embeddings == imported.embeddings


def test_shape_and_size_by_hand():
    student = MobileBert(layers=2, bottleneck=16, heads=2, networks=3, ffn=24, embedding_size=12).attach(
        teacher(), context()
    )
    shape = student.blueprint
    assert (len(shape.layers), shape.hidden_size) == (2, 32)
    layer = shape.layers[0]
    assert (layer.attention.heads, layer.attention.head_size) == ((0, 1), 8)
    assert layer.ffn == (24, 24, 24)
    narrow, attention = 2 * (32 * 16 + 16 + 32), 2 * 17 * 16 + 33 * 16 + 17 * 16 + 32
    networks, widen = 3 * (17 * 24 + 25 * 16 + 32), 17 * 32 + 64
    embeddings = 50 * 12 + (512 + 2) * 32 + 37 * 32 + 64
    head = 33 * 32 + 33 * 2
    expected = embeddings + 2 * (narrow + attention + networks + widen) + head
    assert sum(weight.numel() for _, weight in student.unique_weights()) == shape.total_parameters == expected


def folded(norm, readers):
    """Take gamma and beta into the linear maps that read the norm's output."""
    for linear in readers:
        linear.bias.data += linear.weight.data @ norm.bias.data
        linear.weight.data *= norm.weight.data
    norm.weight.data.fill_(1.0)
    norm.bias.data.fill_(0.0)


def test_no_norm_folds_into_the_next_linear_maps():
    student = MobileBert().attach(teacher(), context())
    generator = torch.Generator().manual_seed(1)
    for weight in student.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    expected = answers(student)
    for layer in student.encoder.layers:
        folded(layer.narrow_query.norm, [layer.attention.query, layer.attention.key])
    torch.testing.assert_close(answers(student), expected, atol=1e-5, rtol=1e-5)


def test_no_norm_is_affine():
    student = MobileBert(start="random").attach(teacher(), context())
    norm = student.encoder.layers[0].widen.norm
    norm.weight.data, norm.bias.data = torch.linspace(-1, 1, 32), torch.linspace(2, 3, 32)
    x, y = torch.randn(2, 5, 32)
    torch.testing.assert_close(norm(x) + norm(y) - norm(torch.zeros(32)), norm(x + y))


def test_the_nearest_affine_map_is_found_and_no_other_is_nearer():
    generator = torch.Generator().manual_seed(0)
    x, gamma, beta = torch.randn(40, 6, generator=generator), torch.arange(1.0, 7.0), torch.arange(6.0)
    for found, planted in zip(nearest_affine(x, gamma * x + beta), (gamma, beta), strict=True):
        torch.testing.assert_close(found, planted)
    target = F.layer_norm(x, (6,))
    gamma, beta = nearest_affine(x, target)
    for column in range(6):
        design = torch.stack([x[:, column], torch.ones(40)], dim=1)
        solution = torch.linalg.lstsq(design, target[:, column]).solution
        torch.testing.assert_close(torch.stack([gamma[column], beta[column]]), solution, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [1, 3])
def test_token_vectors_are_the_best_of_their_width(window):
    table = torch.randn(50, 32, generator=torch.Generator().manual_seed(2))
    vectors, projection = projected_tokens(table, 8, window)
    lost = torch.linalg.svdvals(table.double())[8:].square().sum()
    own = projection[:, 8 * (window // 2) :][:, :8]
    torch.testing.assert_close((vectors @ own.t() - table).double().square().sum(), lost, rtol=1e-5, atol=1e-5)
    assert projection.count_nonzero() == own.count_nonzero()


def test_at_full_width_behind_a_layer_norm_the_embeddings_are_the_teachers():
    model = teacher()
    student = MobileBert(embedding_size=32, norm="layer").attach(model, context())
    ids = BATCH["input_ids"]
    with torch.no_grad():
        own, theirs = (each.encoder.embeddings(ids, None) for each in (student, model))
    torch.testing.assert_close(own, theirs, atol=1e-4, rtol=0)


def test_the_first_no_norm_is_nearer_to_the_teachers_states_than_a_fresh_one():
    model = teacher()
    errors = {}
    for start in ("teacher", "random"):
        embeddings = MobileBert(embedding_size=32, start=start).attach(model, context()).encoder.embeddings
        with torch.no_grad():
            own, theirs = (each(BATCH["input_ids"], None) for each in (embeddings, model.encoder.embeddings))
        errors[start] = (own - theirs)[BATCH["attention_mask"].bool()].square().mean().item()
    spread = theirs[BATCH["attention_mask"].bool()].var(0).mean().item()
    assert errors["teacher"] < 0.2 * spread < errors["random"]


def test_tables_pooler_and_classifier_are_the_teachers_the_rest_is_of_the_seed():
    model = teacher()
    first, second, other = (MobileBert().attach(model, context(seed)) for seed in (0, 0, 1))
    for name in ("position", "segment"):
        assert torch.equal(*(getattr(each.encoder.embeddings, name).weight for each in (first, model)))
    for (name, own), theirs in zip(first.head.named_parameters(), model.head.parameters(), strict=True):
        assert torch.equal(own, theirs), name
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.encoder.layers[0].narrow.dense.weight, other.encoder.layers[0].narrow.dense.weight)
    random = MobileBert(start="random").attach(model, context())
    assert not torch.equal(random.head.dense.weight, model.head.dense.weight)


def test_a_student_of_such_a_student_has_its_embeddings():
    model = MobileBert().attach(teacher(), context())
    model.encoder.embeddings.norm.bias.data += 1
    student = MobileBert(layers=1).attach(model, context(1))
    for own, theirs in zip(student.encoder.embeddings.parameters(), model.encoder.embeddings.parameters(), strict=True):
        assert torch.equal(own, theirs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bottleneck": 10}, "bottleneck=10 must be a multiple of heads=4"),
        ({"bottleneck": 64}, "bottleneck=64 must be at most the teacher's 32"),
        ({"layers": 5}, "layers=5 must be at most the teacher's 4"),
        ({"embedding_size": 33}, "embedding_size=33 must be at most the teacher's 32"),
    ],
)
def test_impossible_shapes_are_refused(fields, message):
    with pytest.raises(RecipeError, match=f"student/mobilebert: {message}"):
        MobileBert(**fields).attach(teacher(), context())

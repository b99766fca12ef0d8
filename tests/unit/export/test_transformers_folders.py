"""Oracle: transformers loads what was written, complains about nothing, and answers bit for bit as the original."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny_transformers import HEADS, PAIRS, agree, answers, batch, tiny

from bertpress.encoder.blueprint import Blueprint, HeadSpec, uniform
from bertpress.encoder.imports import from_transformers, load_pretrained
from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import keep_heads, keep_layers, keep_neurons
from bertpress.errors import ModelError
from bertpress.export.transformers import save_transformers, to_transformers

AUTO = {
    "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
    "ForTokenClassification": transformers.AutoModelForTokenClassification,
    "ForQuestionAnswering": transformers.AutoModelForQuestionAnswering,
    "ForMaskedLM": transformers.AutoModelForMaskedLM,
    "Model": transformers.AutoModel,
}
# of transformers, where a MobileBERT has as wide embeddings as hidden states
pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


def reload(folder, ending):
    model, report = AUTO[ending].from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


@pytest.mark.parametrize(("case", "head"), PAIRS)
def test_there_and_back_is_bit_equal(case, head, tmp_path):
    theirs = tiny(case, head)
    save_transformers(from_transformers(theirs), tmp_path / "back")
    again = reload(tmp_path / "back", HEADS[head][0])
    assert type(again) is type(theirs)
    unused = ("bottleneck.attention", "embedding_transformation") if case.startswith("mobilebert") else ()
    weights = again.state_dict()
    for name, tensor in theirs.state_dict().items():
        if name in weights or not any(part in name for part in unused):
            zeros = "embedding_transformation" in name and not theirs.config.trigram_input
            assert torch.equal(weights[name], tensor) or (zeros and not weights[name].any()), name
    given = batch(theirs.config)
    for name, answer in answers(again, given).items():
        assert torch.equal(answer, answers(theirs, given)[name])


@pytest.mark.parametrize("case", ["bert", "roberta", "distilbert", "electra", "albert", "mpnet", "mobilebert"])
def test_model_in_memory_answers_as_ours(case):
    ours = from_transformers(tiny(case, "masked_lm"))
    theirs = to_transformers(ours)
    assert not theirs.training
    agree(theirs, ours, batch(theirs.config))
    with torch.no_grad():
        next(theirs.parameters()).zero_()
    assert ours.encoder.embeddings.word.weight.any()


def test_labels_and_problem_type_come_along(tmp_path):
    names = {"id2label": {0: "cold", 1: "warm"}, "label2id": {"cold": 0, "warm": 1}}
    theirs = tiny("bert", "sequence", problem_type="multi_label_classification", **names)
    config = reload(save_transformers(from_transformers(theirs), tmp_path / "x"), HEADS["sequence"][0]).config
    assert (config.id2label, config.problem_type) == (names["id2label"], "multi_label_classification")


def test_sentence_vectors_come_back_through_the_modules(tmp_path):
    ours = from_transformers(tiny("mpnet"))
    head = HeadSpec(kind="embedding", pooling="max", normalize=True)
    model = build_model(ours.blueprint.replace(head=head))
    model.encoder.load_state_dict(ours.encoder.state_dict())
    folder = save_transformers(model, tmp_path / "sentences", max_length=24)
    kinds = [module["type"].rpartition(".")[2] for module in json.loads((folder / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Normalize"]
    loaded = load_pretrained(folder)
    assert (loaded.model.blueprint.head, loaded.max_length) == (head, 24)
    given = batch(model.config)
    assert torch.equal(answers(loaded.model, given)["logits"], answers(model, given)["logits"])
    bare = reload(folder, "Model")
    assert not bare.pooler.dense.weight.any()  # nothing of ours has a pooler, and AutoModel would draw one


def test_shallower_and_narrower_models_are_plain_while_their_layers_agree(tmp_path):
    ours = from_transformers(tiny("bert", "sequence"))
    small = keep_neurons(keep_layers(ours, [1]), {(0, 0): [0, 2, 5]})
    theirs = to_transformers(small)
    assert (theirs.config.num_hidden_layers, theirs.config.intermediate_size) == (1, 3)
    agree(theirs, small, batch(theirs.config))


@pytest.mark.parametrize("case", ["albert", "albert-inner", "albert-uneven-groups"])
def test_albert_without_some_layers_keeps_sharing_or_copies(case):
    ours = from_transformers(tiny(case, "sequence"))
    for kept in ([0, 2], [1, 2], [0]):
        small = keep_layers(ours, kept)
        theirs = to_transformers(small)
        agree(theirs, small, batch(theirs.config))


def test_sharing_that_the_family_cannot_say_becomes_copies(tmp_path):
    blueprint = uniform(layers=2, hidden_size=12, heads=3, ffn=20, vocabulary=37, positions=64)
    second = blueprint.layers[1].model_copy(update={"attention_from": 0})
    shared = build_model(blueprint.replace(layers=(blueprint.layers[0], second)))
    again = load_pretrained(save_transformers(shared, tmp_path / "x")).model
    ids = torch.randint(0, 37, (2, 9))
    assert torch.equal(again(ids).last_hidden_state, shared(ids).last_hidden_state)
    assert again.blueprint.total_parameters > shared.blueprint.total_parameters


def change(blueprint: Blueprint, number: int, **fields) -> Blueprint:
    layers = list(blueprint.layers)
    layers[number] = layers[number].model_copy(update=fields)
    return blueprint.replace(layers=tuple(layers))


def plain(**fields) -> Blueprint:
    return uniform(layers=3, hidden_size=12, heads=3, ffn=20, vocabulary=37, positions=64).replace(**fields)


RESTART = {"second_positions": "restart"}
FREE = {"project": "after", "size": 5}


@pytest.mark.parametrize(
    ("blueprint", "words"),
    [
        (change(plain(), 2, ffn=(7,)), "layers.2.ffn=(7,) differs from layer 0's (20,)"),
        (change(plain(), 1, norm="affine"), "layers.1.norm='affine' differs"),
        (change(plain(), 0, separate=True), "layers.1.separate=False differs from layer 0's True"),
        (
            plain(embeddings=plain().embeddings.model_copy(update=RESTART)),
            "embeddings.second_positions='restart' has no",
        ),
        (plain(layers=tuple(change(plain(), 0, ffn=(4, 4)).layers[:1])), "layers.0.ffn"),
        (plain(layers=()), "needs at least one"),
        (plain(embeddings=plain().embeddings.model_copy(update=FREE)), "embeddings.size=5 has no place"),
        (plain(head=HeadSpec(kind="sequence", pooling="mean")), "head.pooling='mean' has no place"),
        (plain(head=HeadSpec(kind="sequence", dense=False)), "head.dense=False has no place"),
        (plain(family="distilbert"), "embeddings.segments=2 has no place in a plain distilbert config"),
        (plain(family="unheard"), "model_type='unheard'"),
    ],
)
def test_refusals_name_the_part_and_what_works(blueprint, words, tmp_path):
    model = build_model(blueprint)
    with pytest.raises(ModelError) as caught:
        save_transformers(model, tmp_path / "never")
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert "unheard" in words or "openvino, onnx and bertpress formats work" in message
    assert not (tmp_path / "never").exists()


def test_uneven_heads_are_refused_by_layer():
    ours = from_transformers(tiny("bert", "sequence"))
    with pytest.raises(ModelError, match=r"layers\.1\.attention\.heads=\(0, 2\) differs from layer 0's \(0, 1, 2\)"):
        to_transformers(keep_heads(ours, {1: [0, 2]}))
    with pytest.raises(ModelError, match=r"layers\.0\.attention: 2 heads of 4 .* do not span 12, as bert must"):
        to_transformers(keep_heads(ours, {0: [0, 2], 1: [0, 2]}))


def test_tokenizer_files_are_copied_or_saved(tmp_path):
    theirs = tiny("bert", "sequence")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "vocab.txt", "README.md"):
        (source / name).write_text(name)
    folder = save_transformers(from_transformers(theirs), tmp_path / "out", source)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "vocab.txt",
    ]
    assert "decoder" not in "".join(load_file(folder / "model.safetensors"))

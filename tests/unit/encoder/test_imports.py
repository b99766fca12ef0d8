"""Oracle: transformers itself, for every family, odd configuration and head."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_transformers import BERT, PAIRS, agree, answers, batch, tiny
from torch.utils.flop_counter import FlopCounterMode

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.imports import from_transformers, load_pretrained
from bertpress.encoder.model import BertpressForSequenceClassification, BertpressModel, build_model
from bertpress.errors import ModelError

# of transformers, where a MobileBERT has as wide embeddings as hidden states
pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


@pytest.mark.parametrize(("case", "head"), PAIRS)
def test_logits_are_those_of_transformers(case, head, tmp_path):
    theirs = tiny(case, head)
    theirs.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    agree(loaded.model, theirs, batch(theirs.config))
    assert loaded.fine_tuned == (head != "bare")
    assert (loaded.random, loaded.source, loaded.revision) == (False, str(tmp_path), None)
    counted = sum(weight.numel() for _, weight in loaded.model.unique_weights())
    assert counted == loaded.model.blueprint.total_parameters


@pytest.mark.parametrize(("case", "head"), [pair for pair in PAIRS if pair[1] in ("sequence", "span", "masked_lm")])
def test_multiply_accumulates_are_those_that_torch_counts(case, head):
    ours = from_transformers(tiny(case, head))
    ids = torch.randint(4, 30, (1, 11))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ours(ids, capture=frozenset({"attentions"}))  # the fused kernel is not counted on every device
    assert sum(ours.blueprint.macs(11).values()) == counter.get_total_flops() // 2


def test_pooler_of_a_bare_model_is_kept():
    theirs = tiny("bert")
    ours = from_transformers(theirs)
    assert isinstance(ours, BertpressModel)
    given = batch(theirs.config)
    torch.testing.assert_close(
        answers(ours, given)["pooler_output"], answers(theirs, given)["pooler_output"], rtol=0, atol=1e-5
    )


def test_relative_positions_agree_beyond_the_last_bucket():
    theirs = tiny("mpnet", "sequence", max_position_embeddings=512)
    given = batch(theirs.config, length=300)
    agree(from_transformers(theirs), theirs, given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype, tmp_path):
    theirs = tiny("bert", "sequence").to(dtype)
    theirs.save_pretrained(tmp_path)
    ours = load_pretrained(tmp_path).model
    assert {weight.dtype for _, weight in ours.unique_weights()} == {torch.float32}
    agree(ours, theirs.float(), batch(theirs.config))


def test_old_names_of_norms_and_buffers_are_understood(tmp_path):
    theirs = tiny("bert", "masked_lm")
    theirs.save_pretrained(tmp_path)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(64)[None]
    old["cls.seq_relationship.weight"], old["cls.seq_relationship.bias"] = torch.zeros(2, 12), torch.zeros(2)
    old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"].clone()
    old["cls.predictions.decoder.bias"] = old.pop("cls.predictions.bias")
    save_file(old, tmp_path / "model.safetensors")
    agree(load_pretrained(tmp_path).model, theirs, batch(theirs.config))


def test_shards_are_read(tmp_path):
    theirs = tiny("bert", "sequence")
    theirs.save_pretrained(tmp_path, max_shard_size="4KB")
    assert not (tmp_path / "model.safetensors").exists()
    agree(load_pretrained(tmp_path).model, theirs, batch(theirs.config))


def test_heads_pruned_by_old_transformers_are_gone(tmp_path):
    theirs = tiny("bert", "sequence")
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    unit = "bert.encoder.layer.1.attention."
    kept = [0, 1, 2, 3, 8, 9, 10, 11]  # head 1 of three goes
    with torch.no_grad():  # the oracle: transformers with the head's output columns at zero
        theirs.bert.encoder.layer[1].attention.output.dense.weight[:, 4:8] = 0
    for part in ("query", "key", "value"):
        for kind in ("weight", "bias"):
            weights[f"{unit}self.{part}.{kind}"] = weights[f"{unit}self.{part}.{kind}"][kept].clone()
    weights[unit + "output.dense.weight"] = weights[unit + "output.dense.weight"][:, kept].contiguous()
    save_file(weights, tmp_path / "model.safetensors")
    change(tmp_path, pruned_heads={"1": [1]})
    loaded = load_pretrained(tmp_path)
    assert [layer.attention.heads for layer in loaded.model.blueprint.layers] == [(0, 1, 2), (0, 2)]
    agree(loaded.model, theirs, batch(theirs.config))


def change(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# --- which head ---


def test_labels_come_with_the_head(tmp_path):
    theirs = tiny("roberta", "sequence", id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    theirs.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path, HeadSpec(kind="sequence", labels=2))
    assert (loaded.fine_tuned, loaded.id2label) == (True, {0: "bad", 1: "good"})
    assert loaded.model.config.id2label == {0: "bad", 1: "good"}
    other = load_pretrained(tmp_path, HeadSpec(kind="sequence", labels=3))
    assert (other.fine_tuned, other.id2label, other.model.config.num_labels) == (False, None, 3)


def test_placeholder_labels_are_no_names(tmp_path):
    tiny("bert", "sequence").save_pretrained(tmp_path)
    assert load_pretrained(tmp_path).id2label is None


@pytest.mark.parametrize("case", ["bert", "albert", "mobilebert"])
def test_a_fresh_classifier_stands_on_the_pooler(case, tmp_path):
    theirs = tiny(case)
    theirs.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path, HeadSpec(kind="sequence", labels=3))
    assert not loaded.fine_tuned
    pooler = theirs.pooler if case == "albert" else theirs.pooler.dense
    assert torch.equal(loaded.model.head.dense.weight, pooler.weight)
    assert loaded.model.head.classifier.weight.shape == (3, 12)


@pytest.mark.parametrize("kind", ["sequence", "token", "span", "masked_lm", "embedding"])
@pytest.mark.parametrize("case", ["bert", "distilbert", "electra", "mpnet", "mobilebert"])
def test_fresh_heads_follow_the_family_and_the_seed(case, kind, tmp_path):
    tiny(case, "five").save_pretrained(tmp_path)
    wanted = HeadSpec(kind="token", labels=4) if kind == "token" else HeadSpec(kind=kind)
    first, again, other = (load_pretrained(tmp_path, wanted, seed=seed).model for seed in (1, 1, 2))
    head = {"sequence": "sequence", "embedding": "bare"}.get(kind, kind)
    convention = from_transformers(tiny(case, head)).blueprint.head
    if kind == "embedding":
        assert (first.blueprint.head.pooling, first.blueprint.head.normalize) == ("mean", True)
    elif kind != "sequence":
        assert first.blueprint.head == convention
    else:
        assert first.blueprint.head.labels == 5  # HeadSpec() asks for no number of labels: the checkpoint's are right
    for name, weight in first.unique_weights():
        assert torch.equal(weight, dict(again.unique_weights())[name])
    drawn = [
        name for name, weight in first.unique_weights() if not torch.equal(weight, dict(other.unique_weights())[name])
    ]
    assert all(name.startswith("head.") for name in drawn)
    assert bool(drawn) == (kind not in ("sequence", "embedding"))


def test_explicit_fields_override_the_convention(tmp_path):
    tiny("distilbert", "masked_lm").save_pretrained(tmp_path)
    given = HeadSpec(kind="sequence", labels=3, pooling="mean", dense=False)
    head = load_pretrained(tmp_path, given).model.blueprint.head
    assert (head.pooling, head.dense, head.activation) == ("mean", False, "relu")


def test_class_name_in_the_config_without_such_weights_means_a_bare_model(tmp_path):
    tiny("mpnet").save_pretrained(tmp_path)
    change(tmp_path, architectures=["MPNetForMaskedLM"])
    loaded = load_pretrained(tmp_path)
    assert loaded.model.blueprint.head == HeadSpec(kind="sequence", labels=0)
    assert not loaded.fine_tuned


def test_head_is_found_by_its_weights_where_no_class_is_named(tmp_path):
    for head, kind in [("sequence", "sequence"), ("token", "token"), ("span", "span"), ("masked_lm", "masked_lm")]:
        tiny("roberta", head).save_pretrained(tmp_path / head)
        change(tmp_path / head, architectures=None)
        assert load_pretrained(tmp_path / head).model.blueprint.head.kind == kind


# --- sources without transformers weights ---


def test_shapes_have_the_published_numbers_of_parameters():
    loaded = load_pretrained("shape:bert-tiny", HeadSpec(kind="sequence", labels=2))
    assert (loaded.random, loaded.fine_tuned, loaded.tokenizer_source) == (True, False, None)
    again = load_pretrained("shape:bert-tiny", HeadSpec(kind="sequence", labels=2))
    assert torch.equal(loaded.model.head.classifier.weight, again.model.head.classifier.weight)
    assert loaded.model.blueprint.head.labels == 2


def test_config_alone_gives_random_weights(tmp_path):
    tiny("albert", "five").config.save_pretrained(tmp_path)
    change(tmp_path, architectures=["AlbertForSequenceClassification"])
    loaded = load_pretrained(tmp_path)
    assert loaded.random
    assert not loaded.fine_tuned
    assert loaded.model.blueprint.head.labels == 5


def test_own_folder_keeps_its_shape_and_may_get_another_head(tmp_path):
    layers = list(uniform(layers=2, hidden_size=12, heads=3, ffn=20, vocabulary=37, positions=64).layers)
    attention = layers[1].attention.model_copy(update={"heads": (0, 2)})
    layers[1] = layers[1].model_copy(update={"attention": attention, "ffn": (7,)})
    blueprint = uniform(layers=2, hidden_size=12, heads=3, ffn=20, vocabulary=37, positions=64)
    blueprint = blueprint.replace(layers=tuple(layers), head=HeadSpec(kind="sequence", labels=3))
    model = build_model(blueprint, id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    model.save_pretrained(tmp_path)
    same = load_pretrained(tmp_path)
    assert isinstance(same.model, BertpressForSequenceClassification)
    assert (same.fine_tuned, same.id2label) == (True, {0: "a", 1: "b", 2: "c"})
    ids = torch.randint(0, 37, (2, 9))
    assert torch.equal(same.model(ids).logits, model(ids).logits)
    other = load_pretrained(tmp_path, HeadSpec(kind="token", labels=4))
    assert (other.fine_tuned, other.id2label) == (False, None)
    assert torch.equal(other.model(ids).last_hidden_state, model(ids).last_hidden_state)
    assert other.model(ids).logits.shape == (2, 9, 4)


def test_pooler_of_an_own_bare_model_serves_a_new_classifier(tmp_path):
    from_transformers(tiny("bert")).save_pretrained(tmp_path)
    bare = load_pretrained(tmp_path)
    assert not bare.fine_tuned
    loaded = load_pretrained(tmp_path, HeadSpec(kind="sequence", labels=3))
    assert torch.equal(loaded.model.head.dense.weight, bare.model.head.dense.weight)
    assert load_pretrained(tmp_path, HeadSpec(kind="span")).model(torch.ones(1, 3).long()).logits.shape == (1, 3, 2)


# --- refusals: one line that names the place ---


@pytest.mark.parametrize(
    ("case", "fields", "words"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ("bert", {"is_decoder": True}, "is_decoder=True"),
        ("bert", {"hidden_act": "mish"}, "hidden_act='mish'"),
        ("bert", {"num_attention_heads": 5}, "num_attention_heads=5 must divide"),
        ("bert", {"auto_map": {"AutoModel": "x.Y"}}, "code of their own"),
        ("bert", {"quantization_config": {"bits": 4}}, "quantization_config="),
        ("bert", {"hidden_size": "wide"}, "hidden_size"),
        ("bert", {"hidden_dropout_prob": 1.5}, "dropout=1.5"),
        ("bert", {"type_vocab_size": 0}, "type_vocab_size=0 must be at least 1"),
        ("albert", {"num_hidden_groups": 9}, "num_hidden_groups=9"),
        ("albert", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets=64"),
        ("mobilebert", {"normalization_type": "layer_norm"}, "layer_norm_eps=1e-12"),
        ("mobilebert", {"normalization_type": "rms"}, "normalization_type='rms'"),
        ("bert", {"model_type": "gpt2"}, "model_type='gpt2' is not supported (supported: bert, roberta"),
        ("bert", {"model_type": None}, "model_type=None"),
        ("bert", {"model_type": "roberta-prelayernorm"}, "model_type='roberta-prelayernorm'"),
    ],
)
def test_configs_that_we_do_not_compute_are_refused_by_name(case, fields, words, tmp_path):
    tiny(case).save_pretrained(tmp_path)
    change(tmp_path, **fields)
    with pytest.raises(ModelError) as caught:
        load_pretrained(tmp_path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "config.json: ")[:-1])
    assert "\n" not in str(caught.value)


QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda w: w.pop(QUERY), "weight encoder.layer.1.attention.self.query.weight is missing"),
        (lambda w: w.update({QUERY: torch.zeros(3, 12)}), "has shape [3, 12], must be [12, 12]"),
        (lambda w: w.update({QUERY: torch.zeros(12, 12, dtype=torch.int8)}), "is of torch.int8"),
        (lambda w: w[QUERY][3].fill_(torch.inf), "query.weight holds values that are not finite"),
        (lambda w: w.update({"bert.extra.weight": torch.zeros(1)}), "weight extra.weight is not known for bert"),
        (lambda w: w.pop("classifier.bias"), "weight classifier.bias is missing"),
    ],
)
def test_weights_that_do_not_fit_are_named(damage, words, tmp_path):
    tiny("bert", "sequence").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    damage(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError) as caught:
        load_pretrained(tmp_path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "model.safetensors"))


def test_untied_decoder_is_refused(tmp_path):
    tiny("bert", "masked_lm").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["cls.predictions.decoder.weight"] = torch.zeros(37, 12)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"decoder\.weight must be tied"):
        load_pretrained(tmp_path)


def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path):
    theirs = tiny("bert", "sequence")
    theirs.config.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError) as caught:
        load_pretrained(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    command = message[message.index("import torch") :].removesuffix('"')
    exec(command)  # the advice must work
    agree(load_pretrained(tmp_path).model, theirs, batch(theirs.config))


def test_corrupt_weights_are_refused(tmp_path):
    tiny("bert").save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-40])
    with pytest.raises(ModelError, match="corrupt or cut short"):
        load_pretrained(tmp_path)


def test_weights_do_not_depend_on_the_file_afterwards(tmp_path):
    tiny("bert").save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path).model
    before = loaded.encoder.embeddings.word.weight.clone()
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff" * 20000)
    assert torch.equal(loaded.encoder.embeddings.word.weight, before)
    assert BERT["vocab_size"] == before.shape[0]

import json

import pytest
import torch
from tiny_transformers import agree, answers, batch, tiny

from bertpress.encoder.blueprint import HeadSpec
from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.sources import find
from bertpress.errors import ModelError

OLD = {"word_embedding_dimension": 12, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
NEW = {"embedding_dimension": 12, "pooling_mode": "mean", "include_prompt": True}
MODULES = (
    ("sentence_transformers.models.Transformer", ""),
    ("sentence_transformers.models.Pooling", "1_Pooling"),
    ("sentence_transformers.models.Normalize", "2_Normalize"),
)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def sentence_folder(folder, *, pooling=OLD, modules=MODULES, model=None):
    theirs = model or tiny("bert")
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(modules)]
    theirs.save_pretrained(folder / modules[0][1])
    write(folder / "modules.json", listed)
    write(folder / "1_Pooling" / "config.json", pooling)
    write(folder / modules[0][1] / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False})
    return theirs


@pytest.mark.parametrize("pooling", [OLD, NEW], ids=["switches", "name"])
def test_sentence_vectors_are_pooled_and_scaled_as_the_modules_say(pooling, tmp_path):
    theirs = sentence_folder(tmp_path, pooling=pooling)
    loaded = load_pretrained(tmp_path)
    assert (loaded.fine_tuned, loaded.max_length) == (True, 40)
    given = batch(theirs.config)
    hidden = answers(theirs, given)["last_hidden_state"]
    kept = [hidden[i][given["attention_mask"][i] == 1] for i in range(len(hidden))]
    vectors = torch.stack([rows.mean(0) / rows.mean(0).norm() for rows in kept])
    torch.testing.assert_close(answers(loaded.model, given)["logits"], vectors, rtol=0, atol=1e-6)


def test_without_normalize_and_with_the_first_token(tmp_path):
    sentence_folder(tmp_path, pooling={**NEW, "pooling_mode": "cls"}, modules=MODULES[:2])
    assert find(tmp_path).embedding == HeadSpec(kind="embedding", pooling="cls", normalize=False)


def test_transformer_in_a_folder_of_its_own(tmp_path):
    modules = (("sentence_transformers.models.Transformer", "0_BERT"), *MODULES[1:])
    sentence_folder(tmp_path, modules=modules)
    assert find(tmp_path).folder == tmp_path / "0_BERT"
    assert load_pretrained(tmp_path).fine_tuned


def test_cross_encoders_answer_with_their_score(tmp_path):
    theirs = sentence_folder(tmp_path, modules=MODULES[:1], model=tiny("bert", "regression"))
    loaded = load_pretrained(tmp_path, HeadSpec(kind="sequence", labels=1))
    assert (loaded.fine_tuned, loaded.max_length) == (True, 40)
    agree(loaded.model, theirs, batch(theirs.config))


def test_length_is_the_tokenizers_where_the_modules_state_none(tmp_path):
    sentence_folder(tmp_path)
    write(tmp_path / "sentence_bert_config.json", {"module_output_name": "token_embeddings"})
    assert find(tmp_path).max_length is None
    for length, expected in [(384, 384), (10**30, None)]:
        write(tmp_path / "tokenizer_config.json", {"model_max_length": length})
        assert find(tmp_path).max_length == expected


def test_pooling_of_the_checkpoint_wins_over_the_one_asked_for(tmp_path):
    sentence_folder(tmp_path, pooling={**NEW, "pooling_mode": "max"})
    head = load_pretrained(tmp_path, HeadSpec(kind="embedding", pooling="mean")).model.blueprint.head
    assert head.pooling == "max"


@pytest.mark.parametrize(
    ("pooling", "modules", "words"),
    [
        ({**OLD, "pooling_mode_cls_token": True}, MODULES, "pooling_mode=cls, mean must be one of"),
        ({"pooling_mode": "lasttoken"}, MODULES, "pooling_mode=lasttoken must be one of cls, mean, max"),
        ({}, MODULES, "pooling_mode=none"),
        (OLD, (*MODULES, ("sentence_transformers.models.Dense", "3_Dense")), "module 3 'Dense' is not supported"),
        (OLD, (MODULES[0], MODULES[2]), "has Normalize, but no Pooling module"),
        (OLD, (MODULES[0], ("sentence_transformers.models.Pooling", "../elsewhere")), "leads outside the folder"),
    ],
)
def test_other_modules_are_refused_by_name(pooling, modules, words, tmp_path):
    sentence_folder(tmp_path, pooling=pooling, modules=modules)
    with pytest.raises(ModelError) as caught:
        find(tmp_path)
    assert words in str(caught.value)


def test_places_that_hold_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{not json")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.json").write_text("[]")
    for name, words in [
        ("empty", "no model, it has no config.json"),
        ("file", "a file; a model is a folder"),
        ("broken", "config.json: cannot be read"),
        ("list", "must hold a JSON object"),
        ("absent", "no such folder"),
    ]:
        with pytest.raises(ModelError, match=words) as caught:
            find(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a/b/c", "../up", "./here", "a b", ""])
def test_what_cannot_be_a_hub_name_is_a_missing_folder(name):
    with pytest.raises(ModelError):
        find(name or "/nowhere/at/all")


class Hub:
    """A stand-in for the hub, in the shape of its client's function."""

    def __init__(self, folder=None, error=None):
        self.folder, self.error, self.asked = folder, error, []

    def __call__(self, name, *, revision, allow_patterns):
        self.asked.append((name, revision))
        if self.error:
            raise self.error
        return str(self.folder)


def test_hub_names_may_carry_a_revision(tmp_path, monkeypatch):
    folder = tmp_path / "snapshots" / "0123abc"
    tiny("bert", "sequence").save_pretrained(folder)
    hub = Hub(folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    loaded = load_pretrained("somebody/some-model@v2")
    assert (loaded.source, loaded.revision, loaded.fine_tuned) == ("somebody/some-model", "0123abc", True)
    load_pretrained("somebody/some-model", revision="main")
    assert hub.asked == [("somebody/some-model", "v2"), ("somebody/some-model", "main")]


def test_offline_is_one_line(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    error = LocalEntryNotFoundError(
        "Got: ConnectError\nAn error happened while trying to locate the files " + "x" * 300
    )
    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(error=error))
    with pytest.raises(ModelError) as caught:
        find("somebody/some-model", "v2")
    message = str(caught.value)
    assert message.startswith("somebody/some-model: no folder of that name, and the hub gave no model at revision v2")
    assert "\n" not in message
    assert len(message) < 300


def test_hub_models_without_safetensors_never_become_random(tmp_path, monkeypatch):
    tiny("bert").config.save_pretrained(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(tmp_path))
    with pytest.raises(ModelError, match="the hub has no model"):
        find("somebody/some-model")

"""Tiny models and data for everything that runs a whole command; one thread, no network."""

import json
import os
import random

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

torch.set_num_threads(1)

SUBJECTS = "cat dog film plot book song city river friend story".split()
GOOD, BAD = "good lovely warm bright".split(), "bad boring cold dull".split()
OTHER = "the a was is and not very who what where in rome paris anna wrote sang saw it ? . ,".split()
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SUBJECTS, *GOOD, *BAD, *OTHER]


def fast_tokenizer():
    """BERT's word pieces over a vocabulary of words."""
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def sentences(count, seed):
    """Texts whose tone is their label: (text, 0 or 1)."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        words = [f"the {draw.choice(SUBJECTS)} was {draw.choice((BAD, GOOD)[i % 2])}" for _ in range(1 + i % 3)]
        found.append((" and ".join(words) + " .", i % 2))
    return found


def rows_of(kind, count, seed):
    """Rows of one kind of task, under the column names that the kind has by default."""
    told = sentences(2 * count, seed)
    if kind == "text-classification":
        return [{"text": text, "label": ("bad", "good")[label]} for text, label in told[:count]]
    if kind in ("text-pair-classification", "sentence-similarity"):
        pairs = zip(told[:count], told[count:][:: 1 if seed % 2 else -1], strict=True)
        return [{"sentence1": a, "sentence2": b, "label": int(x == y)} for (a, x), (b, y) in pairs]
    if kind == "text-regression":
        return [{"text": text, "label": 4.0 * label + len(text) / 50} for text, label in told[:count]]
    if kind == "token-classification":
        words = [text.split() for text, _ in told[:count]]
        return [{"tokens": row, "ner_tags": ["B-thing" if w in SUBJECTS else "O" for w in row]} for row in words]
    if kind == "question-answering":
        rows = []
        for text, _ in told[:count]:
            subject = text.split()[1]
            answers = {"text": [subject], "answer_start": [text.index(subject)]}
            rows.append({"question": "what was it ?", "context": text, "answers": answers})
        return rows
    raise ValueError(kind)


def write_rows(folder, kind, train=48, validation=24):
    """A data folder of one kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, seed in (("train", train, 1), ("validation", validation, 2)):
        lines = [json.dumps(row) for row in rows_of(kind, count, seed)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A transformers folder: a random BERT of two layers with its tokenizer, not fine-tuned."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    fast_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A function from a kind of task to its data folder."""
    root, made = tmp_path_factory.mktemp("data"), {}

    def folder(kind="text-classification"):
        if kind not in made:
            made[kind] = write_rows(root / kind, kind)
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def tiny_rows():
    """A function from a kind of task, a number and a seed to rows in memory."""
    return rows_of

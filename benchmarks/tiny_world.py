"""A tiny model, its tokenizer and data of every kind: what tests and the benchmarks of reliability run on."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, BertPreTrainedModel, PreTrainedTokenizerFast

SUBJECTS = "cat dog film plot book song city river friend story".split()
GOOD, BAD = "good lovely warm bright".split(), "bad boring cold dull".split()
OTHER = "the a was is and not very who what where in rome paris anna wrote sang saw it ? . ,".split()
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SUBJECTS, *GOOD, *BAD, *OTHER]


def fast_tokenizer(words: Sequence[str] = WORDS, max_length: int = 64) -> PreTrainedTokenizerFast:
    """BERT's word pieces over a vocabulary of words, which begins with the special tokens."""
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
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
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def sentences(count: int, seed: int) -> list[tuple[str, int]]:
    """Texts whose tone is their label: (text, 0 or 1)."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        words = [f"the {draw.choice(SUBJECTS)} was {draw.choice((BAD, GOOD)[i % 2])}" for _ in range(1 + i % 3)]
        found.append((" and ".join(words) + " .", i % 2))
    return found


def rows_of(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of one kind of task, under the column names that the kind has by default."""
    told = sentences(2 * count, seed)
    if kind == "text-classification":
        return [{"text": text, "label": ("bad", "good")[label]} for text, label in told[:count]]
    if kind in ("text-pair-classification", "sentence-similarity"):
        others = random.Random(seed).sample(told[count:], count)
        pairs = zip(told[:count], others, strict=True)
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


def write_rows(folder: Path, kind: str = "text-classification", train: int = 48, validation: int = 24) -> Path:
    """A data folder of one kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, seed in (("train", train, 1), ("validation", validation, 2)):
        lines = [json.dumps(row) for row in rows_of(kind, count, seed)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_model(
    folder: Path, kind: type[BertPreTrainedModel] = BertModel, words: Sequence[str] = WORDS, layers: int = 2
) -> Path:
    """A transformers folder: a random BERT with its tokenizer, not fine-tuned."""
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
    fast_tokenizer(words).save_pretrained(folder)
    return folder

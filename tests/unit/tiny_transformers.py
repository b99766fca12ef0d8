"""Tiny transformers models of every family, odd configurations among them, with weights that are all random."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

BERT = {
    "vocab_size": 37,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
}
MOBILE = {
    **BERT,
    "embedding_size": 6,
    "intra_bottleneck_size": 9,
    "num_feedforward_networks": 3,
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", BERT),
    "bert-odd": ("bert", {**BERT, "hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 1e-5}),
    "bert-relu-one-layer": ("bert", {**BERT, "hidden_act": "relu", "num_hidden_layers": 1}),
    "roberta": ("roberta", BERT),
    "roberta-pad-3": ("roberta", {**BERT, "pad_token_id": 3, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "xlm-roberta": ("xlm-roberta", BERT),
    "camembert": ("camembert", BERT),
    "distilbert": (
        "distilbert",
        {"vocab_size": 37, "dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 20, "max_position_embeddings": 64},
    ),
    "distilbert-relu": (
        "distilbert",
        {
            "vocab_size": 37,
            "dim": 8,
            "n_layers": 1,
            "n_heads": 2,
            "hidden_dim": 20,
            "max_position_embeddings": 64,
            "activation": "relu",
            "sinusoidal_pos_embds": True,
        },
    ),
    "electra": ("electra", {**BERT, "embedding_size": 7}),
    "electra-unprojected": ("electra", {**BERT, "embedding_size": 12}),
    "albert": ("albert", {**BERT, "embedding_size": 7, "num_hidden_layers": 3}),
    "albert-uneven-groups": (
        "albert",
        {**BERT, "embedding_size": 12, "num_hidden_layers": 5, "num_hidden_groups": 2, "hidden_act": "gelu"},
    ),
    "albert-inner": (
        "albert",
        {**BERT, "embedding_size": 7, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
    ),
    "mpnet": ("mpnet", BERT),
    "mobilebert": ("mobilebert", MOBILE),
    "mobilebert-inner": ("mobilebert", {**MOBILE, "use_bottleneck_attention": True, "trigram_input": False}),
    "mobilebert-hidden": (  # transformers runs it with a bottleneck of the hidden size alone
        "mobilebert",
        {**MOBILE, "key_query_shared_bottleneck": False, "intra_bottleneck_size": 12, "hidden_act": "gelu"},
    ),
    "mobilebert-no-bottleneck": (
        "mobilebert",
        {**MOBILE, "use_bottleneck": False, "trigram_input": False, "embedding_size": 12},
    ),
    "mobilebert-plain-pooler": (
        "mobilebert",
        {**MOBILE, "classifier_activation": False, "num_feedforward_networks": 1},
    ),
    "mobilebert-layer-norm": (
        "mobilebert",
        {**MOBILE, "normalization_type": "layer_norm", "layer_norm_eps": 1e-5},
    ),
}
HEADS = {
    "sequence": ("ForSequenceClassification", {"num_labels": 2}),
    "regression": ("ForSequenceClassification", {"num_labels": 1}),
    "five": ("ForSequenceClassification", {"num_labels": 5}),
    "token": ("ForTokenClassification", {"num_labels": 4}),
    "span": ("ForQuestionAnswering", {}),
    "masked_lm": ("ForMaskedLM", {}),
    "bare": ("Model", {}),
}
ODD = ("sequence", "token", "masked_lm")
PAIRS = [(case, head) for case in CASES for head in HEADS if "-" not in case or "xlm" in case or head in ODD]
"""What is compared: every head of every family, and of the odd configurations those that differ."""


def tiny(case: str, head: str = "bare", **changes: Any) -> Any:
    """A model in evaluation mode whose every weight is random, so that no bias or norm goes unnoticed."""
    model_type, fields = CASES[case]
    ending, more = HEADS[head]
    config = transformers.AutoConfig.for_model(model_type, **{**fields, **more, **changes})
    name = type(config).__name__.removesuffix("Config") + ending
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = getattr(transformers, name)(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
    return model.eval()


def batch(config: Any, length: int = 13) -> dict[str, Tensor]:
    """Padded rows of unequal length; the last has the padding id inside, unmasked."""
    generator = torch.Generator().manual_seed(3)
    pad = config.pad_token_id or 0
    ids = torch.randint(4, config.vocab_size, (4, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:], mask[2, 1:] = 0, 0
    ids[mask == 0] = pad
    ids[3, 4], ids[3, 7] = pad, pad
    given = {"input_ids": ids, "attention_mask": mask}
    if (segments := getattr(config, "type_vocab_size", 0)) > 1 and config.model_type not in ("mpnet", "distilbert"):
        given["token_type_ids"] = torch.randint(0, segments, ids.shape, generator=generator)
    return given


def answers(model: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a model of transformers or of ours says, under the same names."""
    with torch.no_grad():
        out = model(**given)
    names = ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output")
    said = {name: out[name] for name in names if out.get(name) is not None}
    if "start_logits" in said:
        said.pop("logits", None)
    return said


def agree(model: Any, oracle: Any, given: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Everything that both say is equal to within ``tolerance``."""
    mine, wanted = answers(model, given), answers(oracle, given)
    compared = mine.keys() & wanted.keys()
    assert compared & {"logits", "start_logits", "last_hidden_state"}
    for name in compared:
        torch.testing.assert_close(mine[name], wanted[name], rtol=0, atol=tolerance)

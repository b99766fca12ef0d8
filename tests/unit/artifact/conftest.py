import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from bertpress.artifact import Int8, Stored, save
from bertpress.encoder.blueprint import Blueprint, HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.tasks import resolve

TEXT = "good bad film plot a the very not who wrote it anna in rome ? . ,"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TEXT.split()]


def on_grid(model, *, axis=0, symmetric=True):
    """Put every matrix of a model on an 8-bit grid and write down the plan, as quantize/int8 does."""
    for name, weight in model.unique_weights():
        if weight.ndim != 2:
            continue
        data = weight.data
        other = None if axis is None else 1 - axis
        low = (data.amin() if axis is None else data.amin(other)).clamp(max=0)
        high = (data.amax() if axis is None else data.amax(other)).clamp(min=0)
        scale = torch.maximum(-low, high) / 127 if symmetric else (high - low) / 255
        scale = scale.clamp(min=1e-8)
        zero = torch.zeros_like(scale) if symmetric else (-low / scale).round().clamp(0, 255)
        zero = zero.to(torch.int32)
        bounds = (-127, 127) if symmetric else (0, 255)
        if axis is None:
            weight.data = torch.fake_quantize_per_tensor_affine(data, scale, zero, *bounds)
        else:
            weight.data = torch.fake_quantize_per_channel_affine(data, scale, zero, axis, *bounds)
        parts = {"scale": scale} if symmetric else {"scale": scale, "zero_point": zero}
        model.storage[name] = Stored((Int8(axis=axis, symmetric=symmetric),), parts)
    return model


@pytest.fixture(scope="session")
def tokenizer():
    backend = Tokenizer(WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def shape() -> Blueprint:
    head = HeadSpec(kind="sequence", labels=2)
    return uniform(layers=2, hidden_size=32, heads=4, ffn=48, vocabulary=len(WORDS), positions=32, head=head)


@pytest.fixture
def model(shape):
    torch.manual_seed(0)
    return build_model(shape)


@pytest.fixture
def task():
    return resolve("sst2", id2label=["bad", "good"], max_length=32)


@pytest.fixture
def batch(tokenizer):
    return dict(tokenizer(["good film", "the plot is not very good , anna ?"], return_tensors="pt", padding=True))


@pytest.fixture
def folder(model, tokenizer, task, tmp_path):
    """An int8 artifact on disk."""
    return save(on_grid(model), tokenizer, task, tmp_path / "small", seed=7).path


@pytest.fixture
def quantized():
    return on_grid

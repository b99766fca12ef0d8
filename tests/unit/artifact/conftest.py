import pytest
import torch
from tiny_world import fast_tokenizer

from bertpress.artifact import save
from bertpress.artifact.codecs import on_grid
from bertpress.encoder.blueprint import Blueprint, HeadSpec, uniform
from bertpress.encoder.grids import affine_grid, quantize, symmetric_grid
from bertpress.encoder.model import build_model
from bertpress.tasks import resolve

TEXT = "good bad film plot a the very not who wrote it anna in rome ? . ,"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TEXT.split()]


def quantize_all(model, *, block=(1, 0), symmetric=True, bits=8):
    """Put every matrix of a model on a grid and write down the plan, as quantize/uniform does."""
    for name, weight in model.unique_weights():
        if weight.ndim == 2:
            grid = (symmetric_grid if symmetric else affine_grid)(weight, bits, block)
            weight.data = quantize(weight, grid)
            model.storage[name] = on_grid(grid)
    return model


@pytest.fixture(scope="session")
def tokenizer():
    return fast_tokenizer(WORDS, max_length=32)


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
    return save(quantize_all(model), tokenizer, task, tmp_path / "small", seed=7).path


@pytest.fixture
def quantized():
    return quantize_all

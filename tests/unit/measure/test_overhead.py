"""The benchmark against transformers: what it compares is alike, and what it says is true."""

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bertpress.encoder.imports import from_transformers


@pytest.fixture(scope="module")
def overhead():
    path = Path(__file__).parents[3] / "benchmarks" / "overhead.py"
    spec = importlib.util.spec_from_file_location("overhead", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["overhead"] = module
    spec.loader.exec_module(module)
    module.SHAPES = {"MiniLM-L6": (1, 16, 2, 24)}
    yield module
    del sys.modules["overhead"]


def test_the_two_encoders_give_the_same_answers(overhead):
    reference = overhead.random_bert("MiniLM-L6", 0)
    ours = from_transformers(reference)
    for padded in (False, True):
        row = overhead.compare(reference, ours, overhead.made_up_inputs(12, 3, padded, 0), rounds=6)
        assert row["largest_difference"] < 1e-5
        assert len(row["ratio"]["samples"]) == len(row["bertpress_ms"]["samples"]) == 6


def test_other_weights_are_noticed(overhead):
    ours = from_transformers(overhead.random_bert("MiniLM-L6", 1))
    ours.head.classifier.weight.data += 1
    with pytest.raises(SystemExit, match="the two encoders differ"):
        overhead.compare(overhead.random_bert("MiniLM-L6", 0), ours, overhead.made_up_inputs(8, 2, False, 0), 1)


def test_padded_rows_are_shorter_and_shorter(overhead):
    lengths = overhead.made_up_inputs(128, 8, True, 0)["attention_mask"].sum(1).tolist()
    assert lengths == [128, 120, 112, 104, 96, 88, 80, 72]


def test_made_up_sentences_have_the_lengths_of_sst2(overhead):
    words = [len(row["sentence"].split()) for row in overhead.made_up_sentences(4000, 0)]
    assert np.quantile(words, [0, 0.5, 0.9, 1]) == pytest.approx([1, 7, 21, 52], abs=1)
    assert np.mean(words) == pytest.approx(9.4, abs=0.7)


def test_bars(overhead):
    def row(value):
        return {"shape": "s", "tokens": 32, "batch": 1, "padded": False, "ratio": {"value": value}}

    found = overhead.bars({"forward": [row(0.97), row(0.98)], "training": {"ratio": {"value": 1.6}}})
    assert [bar["met"] for bar in found] == [False, True, True]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_both_trainers_run(overhead, tmp_path):
    arguments = argparse.Namespace(model=None, data=None, seed=0, batch_size=4, examples=8, blocks=2, threads=1)
    found = overhead.training(arguments, tmp_path)
    assert set(found["seconds"]) == {"transformers", "bertpress", "bertpress in float32"}
    assert all(len(seconds) == 2 for seconds in found["seconds"].values())
    assert torch.get_num_threads() >= 1

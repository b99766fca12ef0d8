"""Tiny models and data for everything that runs a whole command; one thread, no network."""

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
import torch
from tiny_world import rows_of, write_model, write_rows

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """One process runs all tests of a file, so that what they share is made once, unless the file says otherwise."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a tiny model, not fine-tuned."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny-bert")


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

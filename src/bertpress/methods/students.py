"""What the methods share that build a student afresh: its first weights."""

from __future__ import annotations

import torch

from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.model import build_model
from bertpress.methods.base import Model


def fresh(shape: Blueprint, model: Model, seed: int) -> Model:
    """A model of this shape with weights that depend on the seed alone, and the labels of ``model``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        keys = ("id2label", "label2id", "problem_type")
        return build_model(shape, **{key: getattr(model.config, key) for key in keys})

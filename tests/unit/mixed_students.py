"""Small models whose layers mix tokens by LSTMs and convolutions, of every shape that has a code path of its own."""

import torch

from bertpress.encoder.blueprint import (
    NO_HEADS,
    AttentionSpec,
    Blueprint,
    CellSpec,
    ConvolutionSpec,
    EmbeddingSpec,
    HeadSpec,
    LayerSpec,
    LstmSpec,
    ShorteningSpec,
)
from bertpress.encoder.model import build_model

HEADS = AttentionSpec(heads=(0, 1), head_size=8, value_size=8)
ATTENTION = LayerSpec(attention=HEADS, ffn=(24,))
LSTM = LayerSpec(attention=NO_HEADS, mixer=LstmSpec(kind="lstm", residual=False, norm="none"), ffn=())
CONVOLUTION = LayerSpec(attention=NO_HEADS, mixer=ConvolutionSpec(kind="convolution"), ffn=(), activation="relu")
WIDE = LayerSpec(attention=NO_HEADS, mixer=ConvolutionSpec(kind="convolution", kernel=5, dilation=2), ffn=(24,))
CELL = LayerSpec(
    attention=NO_HEADS,
    mixer=CellSpec(
        kind="cell", edges=(("maximum3", "dilated5"), ("zero", "conv3", "average3"), ("skip",) + ("zero",) * 3)
    ),
    ffn=(),
    activation="relu",
)


def student(*layers, kind="sequence", shortening=None, seed=0, **head):
    """A model of 16 dimensions; positions where attention needs them."""
    positions = 64 if any(layer.mixer is None for layer in layers) else 0
    blueprint = Blueprint(
        hidden_size=16,
        embeddings=EmbeddingSpec(vocabulary=50, size=12, positions=positions, segments=0, project="after"),
        layers=layers,
        shortening=shortening,
        head=HeadSpec(kind=kind, labels=3, **head),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(blueprint)
        for weight in model.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
    return model


def students():
    """One of each kind."""
    return {
        "bilstm": student(LSTM, LSTM, pooling="ends", dense_size=10, activation="relu"),
        "siamese": student(LSTM, pooling="ends", dense_size=10, activation="relu", siamese=True),
        "cnn": student(CONVOLUTION, WIDE, pooling="max", dense=False),
        "cells": student(CELL, CELL, WIDE, CELL, pooling="mean"),
        "bag": student(pooling="mean", dense_size=10, activation="relu"),
        "attentive": student(LSTM, ATTENTION, LSTM, pooling="mean", dense_size=10, activation="relu"),
        "short": student(ATTENTION, LSTM, WIDE, kind="span", shortening=ShorteningSpec(stride=4)),
    }

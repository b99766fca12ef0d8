"""A tiny answerer of questions whose lower layer reads the two texts apart, and passages for it."""

import torch
from transformers import AutoTokenizer

from bertpress import artifact, tasks
from bertpress.encoder.imports import load_pretrained
from bertpress.methods.attention.deformer import Deformer
from bertpress.methods.base import Context

TASK = tasks.resolve("question-answering", max_length=32).replace(stride=8)
PASSAGES = {
    "rome": "anna wrote the book in rome .",
    "paris": " and ".join(["the city was very cold", "the river was bright", "anna sang a song in paris"] * 4) + " .",
    "film": "the film was good .",
}


def deformed(folder, tiny_model, method=Deformer(layers=1)):  # noqa: B008
    """An artifact of the tiny model with other weights, changed by the method and not trained."""
    model, tokenizer = load_pretrained(tiny_model, TASK.head()).model, AutoTokenizer.from_pretrained(tiny_model)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for _, weight in model.unique_weights():
            weight.data.add_(0.1 * torch.randn_like(weight))
    changed = method.attach(model, Context(task=TASK, tokenizer=tokenizer, seed=0))
    return artifact.save(changed, tokenizer, TASK, folder, seed=0)

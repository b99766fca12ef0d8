"""A training run left alone, and the same one stopped halfway and gone on with by objects made anew."""

import os
import signal

import pytest
from sample_run import make_data
from torch import nn
from transformers import TrainerCallback

from bertpress.errors import Interrupted
from bertpress.training import TrainSettings, train

TASK, DATA, _, TOKENIZER = make_data(count=48)
SETTINGS = TrainSettings(epochs=2, batch_size=8, learning_rate=1e-3, precision="float32", checkpoint_seconds=3600)


class StopAfter(TrainerCallback):
    """Asks to stop after a step, as Ctrl-C does."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def fit(model, folder, callbacks=(), state=None, objectives=None, **changes):
    """Train on a tiny task, 12 steps by default; returns the model."""
    settings = SETTINGS.model_copy(update=changes)
    train(
        model, task=TASK, data=DATA, tokenizer=TOKENIZER, settings=settings, folder=folder, callbacks=list(callbacks),
        state=state if state is not None else nn.ModuleDict(), progress="none", objectives=objectives,
    )  # fmt: skip
    return model


def undisturbed_and_resumed(folder, make):
    """Both models.

    Args:
        folder: an empty one.
        make: gives model, callbacks and state afresh, as a new process would.
    """
    model, callbacks, state = make()
    whole = fit(model, folder / "whole", [*callbacks, StopAfter(None)], state)
    model, callbacks, state = make()
    with pytest.raises(Interrupted):
        fit(model, folder / "stopped", [*callbacks, StopAfter(5)], state)
    model, callbacks, state = make()
    return whole, fit(model, folder / "stopped", [*callbacks, StopAfter(None)], state)

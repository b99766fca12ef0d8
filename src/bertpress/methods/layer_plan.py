"""What methods share that decide in each training step which layers run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from transformers import TrainerCallback

from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.model import Encoder, all_layers
from bertpress.errors import RecipeError
from bertpress.methods.base import Model

Plan = Callable[[Encoder], Iterator[EncoderLayer]]


class LayerPlan(TrainerCallback):  # type: ignore[misc]
    """Has the encoder follow a plan while it trains; in evaluation, and afterwards, every layer runs.

    The plan is put in place when training begins, so that a method that attaches later and builds the model anew does
    not lose it.  Random plans draw from torch's global generator, which is seeded at each step.

    Args:
        plan: the layers of one forward pass, in order.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Model | None = None, **_: Any) -> None:
        """Follow the plan.

        Raises:
            RecipeError: another method of the stage has a plan too.
        """
        assert model is not None
        if model.encoder.plan is not all_layers:
            raise RecipeError("two methods of one stage decide which layers run; give each a stage of its own")
        model.encoder.plan = lambda encoder: (self.plan if encoder.training else all_layers)(encoder)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Model | None = None, **_: Any) -> None:
        """Run every layer again."""
        assert model is not None
        model.encoder.plan = all_layers

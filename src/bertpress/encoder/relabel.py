"""Labels of a classifier in another order."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.surgery import rebuild


def order_labels(model: BertpressPreTrainedModel, order: Sequence[int]) -> BertpressPreTrainedModel:
    """The same answers under other numbers: label i is what label ``order[i]`` was, at every exit too.

    Label names are left to the caller; a classifier that was quantized is kept in float.
    """
    state, index = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}, torch.tensor(order)
    moved = [name for name in state if name.endswith(("classifier.weight", "classifier.bias"))]
    for name in moved:
        state[name] = state[name].index_select(0, index.to(state[name].device))
    storage = {name: stored for name, stored in model.storage.items() if name not in moved}
    return rebuild(model, model.blueprint, state, storage)

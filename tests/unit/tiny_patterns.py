"""What a model answers whose scores are changed by hand before the softmax."""

from unittest.mock import patch

import torch
import torch.nn.functional as F

from bertpress.encoder.attention_masks import MASKED


def answers_with(model, batch, maps_of):
    """Logits where ``maps_of`` makes attention maps of scores (batch, heads, tokens, tokens), pads masked."""

    def attend(query, key, value, mask, dropout, scale):
        scores = query @ key.transpose(-1, -2) * scale
        return maps_of(scores if mask is None else scores + mask) @ value

    with torch.no_grad(), patch.object(F, "scaled_dot_product_attention", attend):
        return model(**batch).logits


def masked_by_hand(model, batch, allowed):
    """Logits where only some pairs of tokens meet."""
    return answers_with(model, batch, lambda scores: scores.masked_fill(~allowed, MASKED).softmax(-1))

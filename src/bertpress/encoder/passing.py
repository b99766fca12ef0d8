"""Hidden states through layers: all of an encoder's, or a stretch of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from bertpress.encoder.attention import RelativeBias
from bertpress.encoder.attention_masks import Masks, places_of, with_bias
from bertpress.encoder.elimination import Present
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.slots import Tape


def through(
    layers: Iterable[EncoderLayer],
    owners: nn.ModuleList | Mapping[int, nn.Module],
    relative: RelativeBias | None,
    hidden: Tensor,
    masks: Masks,
    tape: Tape,
) -> tuple[Tensor, Tensor | None]:
    """Run some layers of an encoder.

    Args:
        layers: in the order in which they run.
        owners: the layers whose weights they may share, by number.
        relative: the bias of all of them.
        hidden: what enters the first, (batch, tokens, hidden).
        masks: of its tokens.
        tape: takes what was asked for.

    Returns:
        Hidden states of the tokens that are left, and their mask or weights (batch, tokens), for what pools.
    """
    present = None
    bias = None if relative is None else relative(places_of(hidden, masks.tokens))
    before = hidden
    for layer in layers:
        spec = layer.spec
        if layer.rule is not None and present is None:
            present = Present.of(hidden, masks)
        mask = masks.own if spec.separate else masks.mask
        after = layer(
            hidden,
            mask if bias is None or spec.mixer else with_bias(mask, bias, spec.attention.heads),
            tape,
            before,
            None if spec.attention_from is None else owners[spec.attention_from],
            None if spec.ffn_from is None else owners[spec.ffn_from],
            present,
        )
        if layer.rule is not None and present is not None:
            masks, bias = present.masks, None if relative is None else relative(present.places)
        before, hidden = hidden, after
        tape.put("hidden_states", hidden)
        if layer.exit is not None and tape.wants("exits"):
            tape.put("exits", layer.exit(hidden, masks.tokens, masks.mask))
    return hidden, masks.tokens

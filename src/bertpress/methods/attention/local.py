"""Let tokens look at their neighbours alone, and at the first token, which looks at all.

Source: the window of Longformer, Beltagy, Peters & Cohan 2020, arXiv:2004.05150, sections 3.1 (sliding window, global
attention on chosen tokens) and 4.1 (wider windows higher up), which the survey counts among the lighter attentions.
Departs from it: the first token alone is global, and it uses the same matrices as the others; no dilation; computed in
blocks of queries against neighbouring blocks of keys.  Short inputs, where that saves nothing, are computed in full.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bertpress.encoder.pattern_specs import LocalSpec
from bertpress.methods.base import Context, Model
from bertpress.methods.patterned import Patterned, longest, with_patterns


class Local(Patterned):
    """Let tokens attend within a window; the first token attends to all and is attended to by all."""

    cite: ClassVar[str] = "Beltagy et al., 2020"

    window: int = Field(64, ge=0, le=65_536, description="Largest distance of a token that is looked at, either side.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Put the window on the layers."""
        place = "attention/local"
        pattern = LocalSpec(kind="local", window=min(self.window, longest(model, ctx)))
        return with_patterns(model, dict.fromkeys(self.chosen(model, place), pattern), place)

    @classmethod
    def noop(cls) -> Local:
        """A window as wide as any text reproduces the model."""
        return cls(window=65_536)

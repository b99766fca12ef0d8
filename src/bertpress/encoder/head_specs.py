"""What turns hidden states into answers, as data."""

from typing import Literal

from pydantic import Field, model_validator

from bertpress.encoder.spec import Activation, Size, Spec, Width

HeadKind = Literal["sequence", "token", "span", "masked_lm", "embedding"]


class HeadSpec(Spec):
    """What turns hidden states into answers.

    ``sequence``: pool, optional dense layer, classifier.  ``token``: classifier on each token.  ``span``: start and
    end scores.  ``masked_lm``: dense, norm, decoder tied to the token table.  ``embedding``: pool, and normalise.
    """

    kind: HeadKind
    labels: Width = Field(2, description="Width of the classifier; 1 is a regression or a reranker.")
    pooling: Literal["cls", "mean", "max", "ends"] = Field(
        "cls", description="ends: the first half of the last state, the second half of the first (recurrent layers)."
    )
    dense: bool = Field(True, description="A dense layer before the classifier.")
    dense_size: Size | None = Field(None, description="Its width; None: the hidden width.")
    siamese: bool = Field(False, description="Sequence: encode both segments apart, compare what was pooled.")
    activation: Activation = "tanh"
    normalize: bool = Field(True, description="Embedding: scale to unit length.")
    free_decoder: bool = Field(False, description="MobileBERT: hidden - embedding size decoder columns are untied.")

    @model_validator(mode="after")
    def _of_sequences(self) -> "HeadSpec":
        if self.siamese and self.kind != "sequence":
            raise ValueError(f"siamese=true must go with kind=sequence, not {self.kind}")
        return self

"""Compositional code embeddings: each token's vector is a sum of vectors that tokens share.

Source: Prakash et al. 2020, "Compressing transformer-based semantic parsing models using compositional code
embeddings", Findings of EMNLP, section 3, after Shu & Nakayama 2018, arXiv:1711.01068, section 4: an autoencoder whose
middle is, for each of M codebooks, a choice among K vectors, made soft by Gumbel noise (equations 7 to 11).
Departs from them: thousands of steps in place of hundreds of thousands, then a few sweeps of additive quantization
(Babenko & Lempitsky 2014): the codebooks by least squares for the codes, each code anew for the codebooks.  No sweep
raises the error.  Tokens weigh by how often the training texts use them (``frequency``), as the task reads few of a
general vocabulary.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bertpress.artifact.codecs.product import nearest
from bertpress.encoder.layers import code_sums
from bertpress.encoder.tables import code_tokens, plain_table
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Trait
from bertpress.methods.pieces import token_counts

NAME = "embed/compositional_codes"
RIDGE = 1e-6  # codebooks may be shifted against each other without changing a sum


class Coder(nn.Module):
    """Scores of the entries of each codebook for a vector, and the codebooks.

    Args:
        size: of the vectors.
        codebooks: M.
        entries: K.
    """

    def __init__(self, size: int, codebooks: int, entries: int) -> None:
        super().__init__()
        self.inner = nn.Linear(size, max(1, codebooks * entries // 2))
        self.outer = nn.Linear(self.inner.out_features, codebooks * entries)
        self.codebooks = nn.Parameter(torch.randn(codebooks, entries, size) / codebooks**0.5)

    def scores(self, vectors: Tensor) -> Tensor:
        """(n, size) to (n, codebooks, entries): log alpha of Shu & Nakayama's equation 8."""
        alpha = F.softplus(self.outer(torch.tanh(self.inner(vectors))))
        scores: Tensor = (alpha + 1e-10).log().unflatten(1, self.codebooks.shape[:2])
        return scores

    def forward(self, vectors: Tensor, noise: Tensor) -> Tensor:
        """What soft choices give back for (n, size); Gumbel ``noise`` is (n, codebooks, entries)."""
        chosen = (self.scores(vectors) + noise).softmax(-1)
        return chosen.flatten(1) @ self.codebooks.flatten(0, 1)


def autoencoded(
    table: Tensor,
    codebooks: int,
    entries: int,
    generator: torch.Generator,
    *,
    steps: int,
    batch: int,
    rate: float,
    weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Codes of a table's rows, and codebooks, by the Gumbel-softmax autoencoder.

    Args:
        table: (rows, size), float32.
        codebooks: M.
        entries: K, at most 256.
        generator: of first weights, batches and noise.
        steps: updates by Adam.
        batch: rows of an update.
        rate: its learning rate, which falls to 0 along a cosine.
        weights: (rows,), positive; how often a row is drawn, relative to others.

    Returns:
        uint8 (rows, M), and (M, K, size).
    """
    table, seed = table.cpu(), int(torch.randint(2**31, (), generator=generator))
    middle = table.mean(0)  # common to all rows, it would drown what the codes can tell apart
    scale = (table - middle).std().clamp(min=1e-12)
    vectors = (table - middle) / scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        coder = Coder(table.shape[1], codebooks, entries)
    optimizer = torch.optim.Adam(coder.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    with torch.enable_grad():
        for _ in range(steps):
            rows = vectors[torch.multinomial(weights, batch, replacement=True, generator=generator)]
            noise = torch.empty(batch, codebooks, entries).exponential_(generator=generator).log().neg()
            loss = (coder(rows, noise) - rows).square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        codes = torch.cat([coder.scores(part).argmax(-1).to(torch.uint8) for part in vectors.split(4096)])
        return codes, coder.codebooks * scale + middle / codebooks


def fitted_codebooks(table: Tensor, codes: Tensor, entries: int, weights: Tensor) -> Tensor:
    """The codebooks with the least squared error for given codes.

    Args:
        table: (rows, size), float32.
        codes: uint8 (rows, M).
        entries: K.
        weights: (rows,), positive; of each row's squared error.

    Returns:
        (M, K, size); entries that no row uses are 0.
    """
    count = codes.shape[1]
    first = torch.arange(count) * entries
    products, sums = torch.zeros(count * entries, count * entries), torch.zeros(count * entries, table.shape[1])
    shares = weights / weights.mean()
    for rows, part, share in zip(table.split(4096), codes.split(4096), shares.split(4096), strict=True):
        chosen = torch.zeros(len(rows), count * entries).scatter_(1, part.long() + first, 1.0)
        weighted = chosen.t() * share
        products += weighted @ chosen
        sums += weighted @ rows
    system = products.double()
    system.diagonal().add_(RIDGE * len(table))
    codebooks: Tensor = torch.linalg.solve(system, sums.double()).float().unflatten(0, (count, entries))
    return codebooks


def recoded(table: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Codes with no larger error: one codebook after the other, the best entry while the others stay.

    Args:
        table: (rows, size), float32.
        codes: uint8 (rows, M).
        codebooks: (M, K, size).

    Returns:
        uint8 (rows, M).
    """
    codes = codes.clone()
    left = table - code_sums(codes, codebooks)
    for i, codebook in enumerate(codebooks):
        left += codebook[codes[:, i].long()]
        codes[:, i] = nearest(left, codebook)
        left -= codebook[codes[:, i].long()]
    return codes


def error(table: Tensor, codes: Tensor, codebooks: Tensor, weights: Tensor) -> float:
    """Squared error as a share of the table's squares, rows by their weights."""
    lost, whole = ((weights @ each.square()).sum() for each in (table - code_sums(codes, codebooks), table))
    return float(lost / whole)


class CompositionalCodes(Method):
    """Store each token as codes, and its vector as the sum of the codebook entries that they name."""

    cite: ClassVar[str] = "Prakash et al., 2020; Shu & Nakayama, 2018"
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})

    codebooks: int = Field(32, ge=1, le=256, description="Codes of a token; as many vectors make up its own.")
    entries: int = Field(16, ge=2, le=256, description="Vectors in each codebook; a power of two wastes no bits.")
    steps: int = Field(2000, ge=0, le=1_000_000, description="Updates of the autoencoder that finds the codes.")
    batch: int = Field(128, ge=1, le=65_536, description="Tokens of an update.")
    learning_rate: float = Field(1e-2, gt=0, le=1, description="Of the autoencoder; falls to 0.")
    sweeps: int = Field(4, ge=0, le=1000, description="Rounds of least squares and choosing the codes anew.")
    frequency: float = Field(
        0.5, ge=0, le=1, description="A token weighs as its count in the texts, plus 1, to this power; 0: all alike."
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Find codes and codebooks; where the stage trains, the codes stay and the codebooks learn on."""
        try:
            table = plain_table(model).cpu()
        except ValueError as fault:
            raise RecipeError(f"{NAME}: {fault}") from None
        weights = self._weights(len(table), ctx)
        codes, codebooks = autoencoded(
            table, self.codebooks, self.entries, ctx.generator(),
            steps=self.steps, batch=self.batch, rate=self.learning_rate, weights=weights,
        )  # fmt: skip
        for _ in range(self.sweeps):
            codebooks = fitted_codebooks(table, codes, self.entries, weights)
            codes = recoded(table, codes, codebooks)
        ctx.notes["code_error"] = error(table, codes, codebooks, weights)
        ctx.say(f"{NAME}: {self.codebooks} codes of {self.entries} leave {ctx.notes['code_error']:.1%} of the squares")
        return code_tokens(model, codes, codebooks)

    def _weights(self, rows: int, ctx: Context) -> Tensor:
        """(rows,), of each token's error."""
        if not self.frequency:
            return torch.ones(rows)
        counts = token_counts(ctx.tokenizer, ctx.texts())[:rows]
        return (1 + F.pad(counts, (0, rows - len(counts))).float()) ** self.frequency

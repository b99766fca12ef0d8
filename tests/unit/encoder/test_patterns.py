"""Patterns equal full attention at their neutral settings and dense brute force elsewhere; pads, cuts, counts, int8."""

import math
from functools import partial

import pytest
import torch
from patterned_models import BATCH, LENGTHS, PATTERNS, POSITIONS, full, logits, model_of, patterned
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel

from bertpress.encoder.attention_masks import MASKED, additive_mask, logarithm
from bertpress.encoder.band import banded_attention, distances, distances_in_band, soft_span, within
from bertpress.encoder.blueprint import RelativeSpec
from bertpress.encoder.linformer import linformer_attention, segments
from bertpress.encoder.lsh import hashed, lsh_attention, unit_keys
from bertpress.encoder.pattern_specs import LinformerSpec, LocalSpec, LshSpec, SpanSpec, TopKSpec
from bertpress.encoder.patterns import Read, largest_scores
from bertpress.encoder.subnetworks import cut, reorder, running, subnetwork
from bertpress.encoder.surgery import keep_head_width, keep_heads, keep_layers, share
from bertpress.errors import ModelError
from bertpress.export.transformers import to_transformers
from bertpress.measure.components import counted_macs, record, replay

TOKENS = 23
RANDOM = torch.Generator().manual_seed(2)
Q, K, V = (torch.randn(3, 2, TOKENS, 8, generator=RANDOM) for _ in range(3))
REAL = torch.arange(TOKENS) < torch.tensor([[TOKENS], [9], [1]])
MASK = additive_mask(REAL.long(), Q.dtype)
NEUTRAL = {
    "local": LocalSpec(kind="local", window=POSITIONS),
    "span": SpanSpec(kind="span", ramp=4),
    "span banded": SpanSpec(kind="span", ramp=4, band=POSITIONS + 3),
    "top_k": TopKSpec(kind="top_k", k=POSITIONS),
    **{
        f"linformer {sharing}": LinformerSpec(kind="linformer", size=POSITIONS, length=POSITIONS, sharing=sharing)
        for sharing in ("none", "heads", "keys_values", "layers")
    },
}


def close(found, expected, real=REAL):
    keep = real[:, None, :, None].expand_as(expected)
    torch.testing.assert_close(found[keep], expected[keep], atol=1e-5, rtol=0)


def dense(query, key, value, allowed, scale=0.3):
    """Softmax over the pairs that are allowed, (..., queries, keys)."""
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~allowed, MASKED)
    return scores.softmax(-1) @ value


def in_blocks(limits, block, neighbours, first):
    return banded_attention(
        Q, K, V, MASK, limits=limits, block=block, neighbours=neighbours, first=first, scale=0.3
    )  # fmt: skip


@pytest.mark.parametrize("name", NEUTRAL)
def test_at_its_neutral_setting_a_pattern_is_full_attention(name):
    model = model_of(NEUTRAL[name], spans=(float(POSITIONS),) * 4)
    torch.testing.assert_close(logits(model), logits(full()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", PATTERNS)
def test_pads_and_batch_mates_change_nothing(name):
    model = model_of(PATTERNS[name])
    together = logits(model)
    assert not torch.allclose(together[0], logits(full())[0], atol=1e-3)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = {key: value[row : row + 1, :length] for key, value in BATCH.items()}
        torch.testing.assert_close(logits(model, alone)[0], together[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("block", "neighbours", "window"), [(4, 1, 4), (4, 2, 5), (16, 1, 0), (32, 1, 7), (5, 3, 14)])
@pytest.mark.parametrize("first", [True, False])
def test_a_band_in_blocks_equals_masked_dense_attention(block, neighbours, window, first):
    near = distances(TOKENS, Q) <= window
    if first:
        near[0] = near[:, 0] = True
    found = in_blocks(within(distances_in_band(block, neighbours, Q), window), block, neighbours, first)
    close(found, dense(Q, K, V, near & REAL[:, None, None]))


def test_spans_by_hand_and_in_blocks():
    distance = torch.tensor([[0, 1, 2, 3, 4, 5, 6]])
    mask = soft_span(distance, torch.tensor([0.0, 2.0, 9.0]), 4)
    assert mask[0, 0].tolist() == [1, 0.75, 0.5, 0.25, 0, 0, 0]
    assert mask[1, 0].tolist() == [1, 1, 1, 0.75, 0.5, 0.25, 0]
    assert mask[2, 0].tolist() == [1] * 7
    span = torch.tensor([1.5, 6.0])
    weights = soft_span(distances(TOKENS, Q), span, 4) * (Q @ K.transpose(-1, -2) * 0.3).exp() * REAL[:, None, None]
    expected = weights / weights.sum(-1, keepdim=True) @ V  # Sukhbaatar et al., equation 4
    limits = logarithm(soft_span(distances_in_band(4, 3, Q), span, 4))
    close(in_blocks(limits, 4, 3, first=False), expected)


def test_beyond_span_and_ramp_nothing_is_seen():
    model = model_of(PATTERNS["span"])
    for band in (11, None):
        attention = model.encoder.layers[0].attention
        attention.pattern.spec = SpanSpec(kind="span", ramp=4, band=band)
        value = torch.zeros(1, 4, POSITIONS, 8)
        value[:, :, 30] = 1e30
        x = torch.randn(1, 4, POSITIONS, 8, generator=torch.Generator().manual_seed(4))
        out = attention.pattern(Read(x, x, value, None, scale=0.3))
        for head, span in enumerate((1.0, 3.5, 0.0, 8.0)):
            seen = [abs(query - 30) < span + 4 for query in range(POSITIONS)]
            assert (out[0, head, :, 0] != 0).tolist() == seen


def test_the_gradient_of_a_span_comes_from_its_ramp_alone():
    scores, span = torch.randn(1, 1, 9, generator=RANDOM), torch.tensor([2.5], requires_grad=True)
    mask = soft_span(torch.arange(9)[None], span, 4)
    maps = (scores + logarithm(mask)).softmax(-1)
    assert maps.sum().item() == pytest.approx(1)
    mask.retain_grad()
    (maps * torch.randn(9, generator=RANDOM)).sum().backward()
    assert (mask.grad.flatten() != 0).tolist() == [True] * 7 + [False] * 2  # no gradient from where the mask is 0
    assert span.grad.item() == pytest.approx(mask.grad.flatten()[3:7].sum().item() / 4)
    assert span.grad.item() != 0
    whole = torch.tensor([9.0], requires_grad=True)
    (scores + logarithm(soft_span(torch.arange(9)[None], whole, 4))).softmax(-1)[0, 0, 0].backward()
    assert whole.grad.item() == 0


def test_the_largest_scores_stay_and_ties_with_them():
    scores = torch.tensor([[3.0, 1.0, 2.0, 0.0], [5.0, 5.0, 5.0, 1.0]])
    kept = largest_scores(scores, 2) > MASKED
    assert kept.tolist() == [[True, False, True, False], [True, True, True, False]]
    scores = Q @ K.transpose(-1, -2) + MASK
    maps = largest_scores(scores, 5).softmax(-1)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, TOKENS))
    assert ((maps[0] > 0).sum(-1) == 5).all()
    assert ((maps[1] > 0).sum(-1) == 5).all()
    assert not maps[1, :, :, 9:].any()
    assert ((maps[2] > 0).sum(-1) == 1).all()  # fewer keys than k
    torch.testing.assert_close(largest_scores(scores, 99), scores, atol=0, rtol=0)


def test_only_kept_scores_get_a_gradient():
    scores = torch.tensor([[3.0, 1.0, 2.0, 0.0]], requires_grad=True)
    largest_scores(scores, 2).softmax(-1)[0, 0].backward()
    assert (scores.grad != 0).tolist() == [[True, False, True, False]]


def test_linformer_by_its_formula():
    e, f = (torch.randn(1, 6, TOKENS, generator=RANDOM) for _ in range(2))
    found = linformer_attention(Q, K, V, None, compress_keys=e, compress_values=f, scale=0.3)
    scores = Q @ (e @ K).transpose(-1, -2) * 0.3
    assert scores.shape == (3, 2, TOKENS, 6)
    torch.testing.assert_close(found, scores.softmax(-1) @ (f @ V), atol=1e-5, rtol=0)
    longer = torch.randn(2, 6, 40, generator=RANDOM)  # a pair of matrices for each head, of which 23 columns are met
    found = linformer_attention(Q, K, V, MASK, compress_keys=longer, compress_values=longer, scale=0.3)
    for row, length in enumerate((TOKENS, 9, 1)):
        ends = longer[:, :, :length]
        scores = Q[row] @ (ends @ K[row, :, :length]).transpose(-1, -2) * 0.3
        share = (ends.abs().sum(-1) / longer.abs().sum(-1))[:, None]
        maps = scores.exp() * share
        expected = maps / maps.sum(-1, keepdim=True) @ (ends @ V[row, :, :length])
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=0)


def test_segments_are_means_of_neighbours():
    assert segments(2, 5).tolist() == [pytest.approx([1 / 3] * 3 + [0, 0]), pytest.approx([0, 0, 0, 0.5, 0.5])]
    assert torch.equal(segments(7, 7), torch.eye(7))


def test_one_bucket_and_a_long_chunk_are_full_shared_attention():
    key, scale = unit_keys(Q), 1 / math.sqrt(8)
    norms = Q.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(Q @ key.transpose(-1, -2) * scale, Q @ (Q / norms).transpose(-1, -2))
    everyone = REAL[:, None, None].expand(3, 1, TOKENS, TOKENS) & ~torch.eye(TOKENS, dtype=torch.bool)
    alone = everyone | (torch.eye(TOKENS, dtype=torch.bool) & (REAL.sum(1) == 1)[:, None, None, None])
    buckets = torch.where(REAL, 0, 1)[:, None, None].expand(3, 2, 1, TOKENS)
    found = lsh_attention(Q, key, V, buckets, chunk=32, scale=scale)
    close(found, dense(Q, key, V, alone, scale))


def meeting(buckets, chunk):
    """Which pairs meet in some round, token by token: (batch, heads, tokens, tokens)."""
    batch, heads, rounds, tokens = buckets.shape
    met = torch.zeros(batch, heads, tokens, tokens, dtype=torch.bool)
    for b in range(batch):
        for h in range(heads):
            for r in range(rounds):
                hashes = buckets[b, h, r].tolist()
                order = sorted(range(tokens), key=lambda i, hashes=hashes: (hashes[i], i))
                at = {token: place // chunk for place, token in enumerate(order)}
                for i in range(tokens):
                    for j in range(tokens):
                        met[b, h, i, j] |= hashes[i] == hashes[j] and at[i] - at[j] in (0, 1)
    eye = torch.eye(tokens, dtype=torch.bool)
    others = (met & ~eye).any(-1, keepdim=True)
    return met & ~(eye & others)


@pytest.mark.parametrize(("chunk", "rounds"), [(4, 1), (4, 3), (5, 2), (64, 4)])
def test_hashed_attention_equals_a_softmax_over_the_pairs_that_meet(chunk, rounds):
    """Pairs that meet in several rounds count once."""
    buckets = torch.randint(0, 4, (3, 2, rounds, TOKENS), generator=torch.Generator().manual_seed(chunk))
    buckets = torch.where(REAL[:, None, None], buckets, 9)
    found = lsh_attention(Q, unit_keys(Q), V, buckets, chunk=chunk, scale=0.3)
    close(found, dense(Q, unit_keys(Q), V, meeting(buckets, chunk)))


def test_more_rounds_come_closer_to_full_attention():
    key, error = unit_keys(Q), []
    every = ~torch.eye(TOKENS, dtype=torch.bool)
    expected = dense(Q, key, V, every, 1.0)
    for rounds in (1, 4, 16):
        found = []
        for seed in range(8):
            rotations = torch.randn(rounds, 8, 4, generator=torch.Generator().manual_seed(seed))
            found.append(lsh_attention(Q, key, V, hashed(Q, rotations), chunk=8, scale=1.0))
        error.append(float((torch.stack(found) - expected).square().mean()))
    assert error[0] > 2 * error[1] > 4 * error[2]


def test_hashing_by_hand_and_by_seed():
    x = torch.tensor([[[[3.0, 1.0], [-3.0, 1.0], [1.0, 4.0], [0.0, -2.0]]]])
    assert hashed(x, torch.eye(2)[None]).tolist() == [[[[0, 2, 1, 3]]]]
    assert hashed(x, torch.zeros(1, 2, 0)).tolist() == [[[[0, 0, 0, 0]]]]
    first, second = (model_of(PATTERNS["lsh"]).encoder.layers[0].attention.pattern.rotations for _ in range(2))
    assert torch.equal(first, second)
    other = model_of(PATTERNS["lsh"].model_copy(update={"seed": 1}))
    assert not torch.equal(first, other.encoder.layers[0].attention.pattern.rotations)


@pytest.mark.parametrize("name", PATTERNS)
def test_counts_are_those_of_the_model(name):
    model = model_of(PATTERNS[name])
    assert model.blueprint.total_parameters == sum(weight.numel() for _, weight in model.unique_weights())
    for tokens in (70, 13):
        inputs = {key: value[:1, :tokens] for key, value in BATCH.items()}
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            calls = record(model, inputs)
            counted = {part: counted_macs(partial(replay, jobs)) for part, jobs in calls.items()}
        assert counted == model.blueprint.macs(tokens)


def test_parameters_of_each_kind_of_sharing():
    def added(sharing):
        pattern = LinformerSpec(kind="linformer", size=20, length=POSITIONS, sharing=sharing)
        return patterned(pattern, pattern).total_parameters - patterned(None, None).total_parameters

    one = 20 * POSITIONS
    assert [added(each) for each in ("none", "heads", "keys_values", "layers")] == [16 * one, 4 * one, 2 * one, one]
    hashing = patterned(PATTERNS["lsh"], PATTERNS["lsh"]).total_parameters
    assert patterned(None, None).total_parameters - hashing == 2 * (32 * 32 + 32)  # no key matrices


@pytest.mark.parametrize("name", PATTERNS)
def test_heads_and_layers_can_be_cut(name):
    model = model_of(PATTERNS[name])
    silent = model_of(PATTERNS[name])
    silent.encoder.layers[0].attention.output.weight.data[:, 8:24] = 0
    silent.encoder.layers[1].attention.output.weight.data.zero_()
    fewer = keep_heads(model, {0: [0, 3], 1: []})
    torch.testing.assert_close(logits(fewer), logits(silent), atol=1e-5, rtol=0)
    turned = reorder(model, {0: [2, 0, 3, 1]}, {})
    torch.testing.assert_close(logits(turned), logits(model), atol=1e-5, rtol=0)
    assert keep_layers(model, [1]).blueprint.layers[0].attention == model.blueprint.layers[1].attention
    torch.testing.assert_close(logits(share(model, {1: 0})), logits(share(model, {1: 0})), atol=0, rtol=0)
    parts = subnetwork(model.blueprint, width=0.5)
    if name == "linformer layers":
        with pytest.raises(ValueError, match="compress keys with one matrix"), running(model, parts):
            pass
        return
    with running(model, parts):
        inside = logits(model)
    torch.testing.assert_close(inside, logits(cut(model, parts)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", PATTERNS)
def test_maps_are_captured_where_there_are_any(name):
    model = model_of(PATTERNS[name])
    with torch.no_grad():
        out = model(**BATCH, capture=frozenset({"attentions", "scores", "contexts"}))
    torch.testing.assert_close(out.logits, logits(model), atol=1e-5, rtol=0)
    assert len(out.captured["contexts"]) == 2
    assert model.blueprint.maps is (len(out.captured["attentions"]) == 2) is (not name.startswith(("lin", "lsh")))
    for maps in out.captured["attentions"]:
        torch.testing.assert_close(maps.sum(-1), torch.ones(4, 4, 70))


def test_what_a_pattern_cannot_do_is_told():
    relative = RelativeSpec(heads=4)
    assert patterned(PATTERNS["top_k"], None).replace(relative=relative)
    for name in ("local", "span", "linformer", "lsh"):
        with pytest.raises(ValidationError, match=r"layers.1.attention.pattern=\w+ cannot take the relative bias"):
            patterned(None, PATTERNS[name]).replace(relative=relative)
    one = PATTERNS["linformer layers"]
    with pytest.raises(ValidationError, match="must agree on size and length"):
        patterned(one, one.model_copy(update={"size": 9}))
    with pytest.raises(ValidationError, match="buckets=3 must be 1 or even"):
        LshSpec(kind="lsh", chunk=8, buckets=3)
    with pytest.raises(ValueError, match="layer 0: heads that hash their queries cannot be made narrower"):
        keep_head_width(model_of(PATTERNS["lsh"]), {0: ([[0, 1]] * 4, [[0, 1]] * 4)})
    with pytest.raises(ModelError, match="layers.0.attention.pattern=top_k has no place in a plain bert config"):
        to_transformers(model_of(PATTERNS["top_k"]))

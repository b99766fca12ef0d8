"""Small models whose attention follows patterns, with the weights of one that attends in full."""

import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.pattern_specs import LinformerSpec, LocalSpec, LshSpec, SpanSpec, TopKSpec

POSITIONS = 70
FULL = uniform(
    layers=2, hidden_size=32, heads=4, ffn=48, vocabulary=50, positions=POSITIONS, head=HeadSpec(kind="sequence")
)
SPANS = (1.0, 3.5, 0.0, 8.0)
PATTERNS = {
    "local": LocalSpec(kind="local", window=5),
    "span": SpanSpec(kind="span", ramp=4, band=11),
    "top_k": TopKSpec(kind="top_k", k=4),
    "linformer": LinformerSpec(kind="linformer", size=20, length=POSITIONS),
    "linformer none": LinformerSpec(kind="linformer", size=20, length=POSITIONS, sharing="none"),
    "linformer layers": LinformerSpec(kind="linformer", size=20, length=POSITIONS, sharing="layers"),
    "lsh": LshSpec(kind="lsh", chunk=8, buckets=4, rounds=2),
}
LENGTHS = torch.tensor([70, 41, 1, 9])
BATCH = {
    "input_ids": torch.randint(5, 50, (4, 70), generator=torch.Generator().manual_seed(1)),
    "attention_mask": (torch.arange(70) < LENGTHS[:, None]).long(),
}


def patterned(*patterns):
    """The shape with a pattern for each layer; None attends in full."""
    layers = zip(FULL.layers, patterns, strict=True)
    return FULL.with_layers(
        tuple(
            layer.model_copy(update={"attention": layer.attention.model_copy(update={"pattern": pattern})})
            for layer, pattern in layers
        )
    )


def full():
    """Weights large enough for attention to matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(FULL)
        for weight in model.parameters():
            weight.data += 0.2 * torch.randn_like(weight)
    return model


def model_of(pattern, *, spans=SPANS):
    """The same weights under a pattern in both layers."""
    model = build_model(patterned(pattern, pattern))
    state = model.state_dict()
    state |= {name: weight for name, weight in full().state_dict().items() if name in state}
    state |= {name: torch.tensor(spans) for name in state if name.endswith("pattern.span")}
    model.load_state_dict(state)
    return model


def logits(model, batch=BATCH):
    with torch.no_grad():
        return model(**batch).logits

"""Where the bytes are, of a file or of a model that is yet to be written, by component (the survey's Figure 3)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertpress.artifact.codecs.bitmap import Bitmap
from bertpress.artifact.header import WeightPlan, inspect
from bertpress.artifact.packing import planned_bytes
from bertpress.encoder.costs import COMPONENTS
from bertpress.errors import BertpressError

_PLACES: tuple[tuple[str, str], ...] = (
    (r"encoder\.embeddings\.", "embeddings"),
    (r"encoder\.relative\.", "attention"),
    (r"encoder\.(layers\.\d+\.mixer|shortening)\.", "mixer"),
    (r"encoder\.layers\.\d+\.(narrow|narrow_query)\.", "attention_in"),
    (r"encoder\.layers\.\d+\.attention\.(output|norm|context_slot)\b", "attention_out"),
    (r"encoder\.layers\.\d+\.attention\.", "attention_in"),
    (r"encoder\.layers\.\d+\.(ffn|widen)\.", "ffn"),
    (r"(encoder\.layers\.\d+\.exit|head)\.", "head"),
)


def component(name: str) -> str:
    """The component that a weight or buffer belongs to, by its name in the state dict."""
    for pattern, place in _PLACES:
        if re.match(pattern, name):
            return place
    raise BertpressError(f"{name}: belongs to no component of {', '.join(COMPONENTS)}")


def by_component(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sums of named sizes."""
    sums = dict.fromkeys(COMPONENTS, 0)
    for name, size in sizes.items():
        sums[component(name)] += size
    return sums


def file_bytes(path: Path) -> dict[str, int]:
    """Bytes of a packed ``model.safetensors`` by component, from its header; the header's own bytes are not in."""
    return by_component(inspect(path).bytes())


def stored_bits(path: Path) -> list[dict[str, Any]]:
    """How every matrix and table of a packed ``model.safetensors`` is stored, from its header; shared ones once.

    Returns:
        For each ``name``, ``shape``, ``bits`` (on disk a weight, scales and codebooks included) and ``kinds`` (of its
        codecs; only ``dense`` where it has none); with a bitmap of zeros also ``kept``, the share of the others.
    """
    listing = inspect(path)
    plans, sizes = listing.plan.weights, listing.bytes()
    return [
        {
            "name": name,
            "shape": list(spec.shape),
            "bits": 8 * sizes[name] / spec.elements,
            "kinds": [codec.kind for codec in plans[name].codecs] if name in plans else ["dense"],
            **(_kept(plans[name]) if name in plans else {}),
        }
        for name, spec in sorted(listing.weights.items())
        if len(spec.shape) == 2 and spec.elements
    ]


def _kept(plan: WeightPlan) -> dict[str, float]:
    for codec, counts in zip(plan.codecs, plan.counts, strict=True):
        if isinstance(codec, Bitmap):
            return {"kept": counts.get("kept", 0) / plan.spec.elements}
    return {}


def model_bytes(model: Any) -> dict[str, int]:
    """Bytes by component that a model will take with its storage plan, in closed form: nothing is packed."""
    return by_component(planned_bytes(model.state_dict(), model.storage))

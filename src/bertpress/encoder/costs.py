"""Parameters and multiply-accumulates of a blueprint in closed form, per component.

The components are those of the survey's Figure 3 (Ganesh et al., TACL 2021) and, where a model has any, the mixers that
stand in place of attention.  A norm counts with the unit that it closes; norms, biases, softmax and activations are no
matrix products and so count no MACs, as in the survey.
"""

from bertpress.encoder.blueprint import AttentionSpec, Blueprint, LayerSpec
from bertpress.encoder.mixer_specs import CONVOLUTIONS, Operation

COMPONENTS = ("embeddings", "mixer", "attention_in", "attention", "attention_out", "ffn", "head")


def _matrix(inputs: int, outputs: int, rank: int) -> int:
    """Weights of a map without its bias; one of rank 0 is whole, and one without inputs or outputs is not there."""
    return rank * (inputs + outputs) if rank and inputs and outputs else inputs * outputs


def _linear(inputs: int, outputs: int) -> int:
    return outputs * inputs + outputs


def _embedding_parameters(blueprint: Blueprint) -> int:
    spec, hidden = blueprint.embeddings, blueprint.hidden_size
    added = hidden if spec.project == "tokens" else spec.size  # width at which positions and segments are added
    rows = spec.codebooks * spec.entries or spec.vocabulary  # codes are integers, no weights
    count = rows * spec.size + (spec.positions + spec.segments) * added + 2 * added
    if spec.project != "none":
        count += _linear(spec.window * spec.size, hidden)
    return count


def _widths(blueprint: Blueprint, layer: LayerSpec) -> tuple[int, int, int]:
    """Inner width of a layer, width that queries and keys read, width that values read."""
    hidden, neck = blueprint.hidden_size, layer.bottleneck
    if neck is None:
        return hidden, hidden, hidden
    inputs = {"shared": (neck.size, hidden), "hidden": (hidden, hidden), "inner": (neck.size, neck.size)}
    return neck.size, *inputs[neck.attention_input]


def _attention_in(blueprint: Blueprint, layer: LayerSpec, *, bias: bool) -> int:
    spec = layer.attention
    inner, query_input, value_input = _widths(blueprint, layer)
    count = sum(
        _matrix(value_input if name == "value" else query_input, len(spec.heads) * size, getattr(spec.ranks, name))
        + bias * len(spec.heads) * size
        for name, size in spec.projections
    )
    if layer.bottleneck:
        maps = 2 if layer.bottleneck.attention_input == "shared" else 1
        count += maps * (inner * blueprint.hidden_size + bias * 3 * inner)  # linear, its bias, its norm's two vectors
    return count


def _pattern_parameters(blueprint: Blueprint) -> int:
    """Weights of the patterns; what all layers share counts once."""
    units = [layer.attention for layer in blueprint.layers if layer.attention_from is None and layer.attention.heads]
    count = sum(unit.pattern.parameters(len(unit.heads)) for unit in units if unit.pattern is not None)
    for unit in units:
        if unit.pattern is not None and unit.pattern.kind == "linformer" and unit.pattern.sharing == "layers":
            return count + unit.pattern.size * unit.pattern.length
    return count


def _pairs(spec: AttentionSpec, tokens: int) -> int:
    """Scores of queries and keys, and averages of values."""
    if spec.pattern is not None:
        return spec.pattern.macs(tokens, spec.query_width, spec.value_width)
    return tokens * tokens * (spec.query_width + spec.value_width)


def _attention_out(blueprint: Blueprint, layer: LayerSpec, *, bias: bool) -> int:
    if layer.mixer is not None:
        return 0
    inner = _widths(blueprint, layer)[0]
    return _matrix(layer.attention.value_width, inner, layer.attention.ranks.output) + bias * 3 * inner


def operation(name: Operation, hidden: int, *, bias: bool) -> int:
    """Weights of an edge of a cell; without the bias they are its MACs for each token."""
    return CONVOLUTIONS[name][0] * hidden * hidden + bias * hidden if name in CONVOLUTIONS else 0


def _mixer(blueprint: Blueprint, layer: LayerSpec, *, bias: bool) -> int:
    hidden, spec = blueprint.hidden_size, layer.mixer
    if spec is None:
        return 0
    count = bias * 2 * hidden if spec.norm != "none" else 0
    if spec.kind == "convolution":
        return count + spec.kernel * hidden * hidden + bias * hidden
    if spec.kind == "cell":
        edges = sum(operation(name, hidden, bias=bias) for node in spec.edges for name in node)
        return count + bias * len(spec.edges) + edges
    units = hidden // 2
    return count + 2 * 4 * units * (hidden + units + bias)


def _shortening(blueprint: Blueprint, *, bias: bool) -> int:
    spec, hidden = blueprint.shortening, blueprint.hidden_size
    return 0 if spec is None else 2 * spec.stride * hidden * hidden + bias * (spec.stride + 1 + 2) * hidden


def _ffn(blueprint: Blueprint, layer: LayerSpec, *, bias: bool) -> int:
    inner, hidden = _widths(blueprint, layer)[0], blueprint.hidden_size
    count = sum(
        _matrix(inner, width, ranks.inner) + _matrix(width, inner, ranks.outer) + bias * (width + 3 * inner)
        for width, ranks in zip(layer.ffn, layer.network_ranks, strict=True)
    )
    if layer.bottleneck:
        count += inner * hidden + bias * 3 * hidden
    return count


def _head(blueprint: Blueprint, *, bias: bool) -> int:
    """Weights of the head, which are its MACs for each position that it reads (see :func:`macs`)."""
    head, hidden = blueprint.head, blueprint.hidden_size
    if head is None or head.kind == "embedding":
        return 0
    if head.kind == "masked_lm":
        spec = blueprint.embeddings
        width = hidden if head.free_decoder or blueprint.projects_decoder else spec.size
        count = width * hidden + bias * (3 * width + spec.vocabulary)
        return count + head.free_decoder * (hidden - spec.size) * spec.vocabulary
    read, dense = 4 * hidden if head.siamese else hidden, 0
    if head.kind == "sequence" and head.dense:
        width = head.dense_size or hidden
        read, dense = width, width * read + bias * width
    labels = 2 if head.kind == "span" else head.labels
    return dense + labels * read + bias * labels


def _exit(blueprint: Blueprint, layer: LayerSpec, tokens: int, *, bias: bool) -> int:
    """Weights of a layer's exit at one token and with bias, its MACs without."""
    spec, head = layer.exit, blueprint.head
    if spec is None or head is None:
        return 0
    if spec.kind != "branch":
        kept = spec.kind == "pooled" and head.dense
        return _head(blueprint.model_copy(update={"head": head.model_copy(update={"dense": kept})}), bias=bias)
    size = spec.size
    by_token = size * blueprint.hidden_size + 3 * size * size
    once = 2 * size * size + head.labels * size
    return tokens * by_token + once + (6 * size + head.labels if bias else 2 * tokens * tokens * size)


def parameters(blueprint: Blueprint) -> dict[str, int]:
    """Numbers of stored weights by component; a shared or tied weight counts once."""
    count = dict.fromkeys(COMPONENTS, 0)
    count["embeddings"] = _embedding_parameters(blueprint)
    if blueprint.relative:
        count["attention"] = blueprint.relative.buckets * blueprint.relative.heads
    count["attention"] += _pattern_parameters(blueprint)
    count["mixer"] = _shortening(blueprint, bias=True)
    for layer in blueprint.layers:
        if layer.attention_from is None:
            count["mixer"] += _mixer(blueprint, layer, bias=True)
            count["attention_in"] += _attention_in(blueprint, layer, bias=True)
            count["attention_out"] += _attention_out(blueprint, layer, bias=True)
        if layer.ffn_from is None:
            count["ffn"] += _ffn(blueprint, layer, bias=True)
        count["head"] += _exit(blueprint, layer, 1, bias=True)
    count["head"] += _head(blueprint, bias=True)
    return count


def macs(blueprint: Blueprint, tokens: int, cached: int = 0) -> dict[str, int]:
    """Multiply-accumulates by component for one input of ``tokens`` tokens.

    A mask keeps segments apart where both are computed, which saves nothing; what is saved is what comes from a cache.
    Where it depends on the text which tokens leave, they count as if none did.

    Args:
        blueprint: of the encoder.
        tokens: of the whole input.
        cached: how many of them come as states of the last separate layer.
    """
    count = dict.fromkeys(COMPONENTS, 0)
    spec = blueprint.embeddings
    if spec.project != "none":
        count["embeddings"] = (tokens - cached) * spec.window * spec.size * blueprint.hidden_size
    whole = tokens
    if blueprint.shortening is not None:
        tokens = -(-whole // blueprint.shortening.stride)
        count["mixer"] = tokens * _shortening(blueprint, bias=False)
    there = tokens
    for layer in blueprint.layers:
        attention, run = layer.attention, there - cached * layer.separate
        count["mixer"] += run * _mixer(blueprint, layer, bias=False)
        count["attention_in"] += run * _attention_in(blueprint, layer, bias=False)
        count["attention"] += _pairs(attention, run)
        count["attention_out"] += run * _attention_out(blueprint, layer, bias=False)
        there = there if layer.rule is None else layer.rule.left(tokens, there)
        count["ffn"] += (there - cached * layer.separate) * _ffn(blueprint, layer, bias=False)
    head = blueprint.head
    if head is not None and head.siamese:  # each segment comes in a row of its own, as long as both together
        count = {component: 2 * cost for component, cost in count.items()}
    if head is not None:
        count["head"] = _head(blueprint, bias=False) * (1 if head.kind == "sequence" else whole)
        if head.kind == "masked_lm":  # the tied columns of the decoder are no stored weights, but they are computed
            width = blueprint.hidden_size if blueprint.projects_decoder else spec.size
            count["head"] += whole * width * spec.vocabulary
        count["head"] += sum(_exit(blueprint, layer, whole, bias=False) for layer in blueprint.layers)
    return count


def exit_macs(blueprint: Blueprint, tokens: int) -> list[int]:
    """MACs of a text that leaves at each of ``blueprint.exits``, those of the exits that it passed included."""
    bare = [layer.model_copy(update={"exit": None}) for layer in blueprint.layers]
    trunk = blueprint.replace(layers=(), head=None, exit=None)
    passed, found = 0, []
    for depth in blueprint.exits:
        layer = blueprint.layers[depth - 1]
        last = layer.exit is None
        passed += _head(blueprint, bias=False) if last else _exit(blueprint, layer, tokens, bias=False)
        found.append(passed + sum(macs(trunk.with_layers(tuple(bare[:depth])), tokens).values()))
    return found

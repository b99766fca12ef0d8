"""To OpenVINO: ``openvino/model.xml`` and ``model.bin``, integers as integers, any batch and length.

A model whose passages can be kept has two graphs more, ``lower.xml`` and ``upper.xml``, on the same weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.errors import EngineError
from bertpress.export.tracing import Part, example, parts, quiet, write_metadata

ALIGNMENT = 64  # bytes


def export(
    model: BertpressPreTrainedModel,
    folder: Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Convert ``model``; weights with an integer grid in ``model.storage`` become int8 constants.

    Args:
        model: with every transform baked; stays as it is.
        folder: gets a folder ``openvino``.
        metadata: task, max_length and the like, for ``metadata.json`` beside the graph.
        half: store float weights in 16 bits: half the file of a float model, and slightly other answers.

    Returns:
        The path of ``model.xml``.

    Raises:
        EngineError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError:
        raise EngineError("export to openvino: not installed; pip install 'bertpress[openvino]'") from None

    target = folder / "openvino"
    target.mkdir(parents=True, exist_ok=True)
    write_metadata(model, target, metadata)
    traced = parts(model)
    for name, part in traced.items():
        openvino.save_model(_converted(part), target / f"{name}.xml", compress_to_fp16=half)
    path = target / "model.xml"
    share_weights(path, [target / f"{name}.xml" for name in traced if name != "model"])
    return path


def _converted(part: Part) -> Any:
    import openvino

    with quiet():
        # traced here, since the converter's own tracing runs the model three more times to check itself
        inputs = example(part)
        graph = openvino.convert_model(torch.jit.trace(part, inputs, check_trace=False))
    for port, name, tensor in zip(graph.inputs, part.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1, *tensor.shape[2:]]))
    graph.outputs[0].get_tensor().set_names({part.output})
    look_up_integers(graph)
    if part.model.blueprint.activation_scales == "dynamic":
        scale_products(graph)
    graph.validate_nodes_and_infer_types()
    return graph


def share_weights(path: Path, others: Sequence[Path]) -> None:
    """Let other graphs read their constants from the weights of this one; what those lack is appended to them.

    Args:
        path: ``model.xml``, with ``model.bin`` beside it.
        others: graphs whose own ``.bin`` goes.
    """
    weights = path.with_suffix(".bin")
    places = {
        value: constant.get("offset", "")
        for constant, value, _ in _constants(ElementTree.parse(path).getroot(), weights)
    }
    with weights.open("ab") as file:
        for other in others:
            tree, own = ElementTree.parse(other), other.with_suffix(".bin")
            for constant, value, content in _constants(tree.getroot(), own):
                if value not in places:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    places[value] = str(file.tell())
                    file.write(content)
                constant.set("offset", places[value])
            tree.write(other, encoding="utf-8", xml_declaration=True)
            own.unlink()


def _constants(root: ElementTree.Element, weights: Path) -> Iterator[tuple[ElementTree.Element, bytes, memoryview]]:
    """Where the constants of a graph are said to lie, each with a hash of its bytes and the bytes."""
    whole = memoryview(weights.read_bytes())
    for layer in root.iter("layer"):
        if layer.get("type") == "Const":
            for constant in layer.iter("data"):
                at, size = (int(constant.get(name, 0)) for name in ("offset", "size"))
                yield constant, hashlib.sha256(whole[at : at + size]).digest(), whole[at : at + size]


def scale_products(graph: Any) -> int:
    """Turn MatMul(Multiply(FakeQuantize(x), s), w) into Multiply(MatMul(FakeQuantize(x), w), s); s is one for each row.

    So the runtime finds a product of two fake-quantized operands, and multiplies their integers.

    Returns:
        How many products were turned.
    """
    from openvino import opset13 as ops

    count = 0
    for product in [node for node in graph.get_ordered_ops() if node.get_type_name() == "MatMul"]:
        scaled = product.input_value(0).get_node()
        if scaled.get_type_name() != "Multiply":
            continue
        steps, scale = scaled.input_value(0), scaled.input_value(1)
        if steps.get_node().get_type_name() != "FakeQuantize":
            continue
        readers = product.output(0).get_target_inputs()
        product.input(0).replace_source_output(steps)
        out = ops.multiply(product.output(0), scale)
        for reader in readers:
            reader.replace_source_output(out.output(0))
        count += 1
    return count


def look_up_integers(graph: Any) -> int:
    """Let lookups read integer rows and scale what they found, so that no runtime unfolds a table to float32.

    Rewrites Gather(Multiply(Convert(table), scale), ids) into Multiply(Convert(Gather(table, ids)), Gather(scale,
    ids)); other readers of the table (a tied decoder) keep theirs.

    Returns:
        How many lookups were rewritten.
    """
    from openvino import opset13 as ops

    count = 0
    for gather in [node for node in graph.get_ordered_ops() if node.get_type_name() == "Gather"]:
        multiply = gather.input_value(0).get_node()
        if multiply.get_type_name() != "Multiply":
            continue
        convert, scale = multiply.input_value(0).get_node(), multiply.input_value(1)
        if convert.get_type_name() != "Convert" or scale.get_node().get_type_name() != "Constant":
            continue
        table = convert.input_value(0)
        rows = table.get_partial_shape()[0]
        if table.get_node().get_type_name() != "Constant" or scale.get_partial_shape()[0] != rows:
            continue
        ids, axis = gather.input_value(1), gather.input_value(2)
        found = ops.convert(ops.gather(table, ids, axis), convert.get_element_type())
        scaled = ops.multiply(found, ops.gather(scale, ids, axis))
        scaled.set_friendly_name(gather.get_friendly_name())
        for reader in gather.output(0).get_target_inputs():
            reader.replace_source_output(scaled.output(0))
        count += 1
    return count

"""To OpenVINO: ``openvino/model.xml`` and ``model.bin``, integers as integers, any batch and length.

Beside the graph of a model that can be run in parts (early exits: ``exit-0.xml`` and so on; passages that can be kept:
``lower.xml`` and ``upper.xml``) lie those of its parts, which read the same ``model.bin``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.errors import EngineError
from bertpress.export.sharing import share_openvino
from bertpress.export.tracing import Exportable, exportables, quiet, write_metadata
from bertpress.untold import untold


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
        with untold():
            import openvino
    except ImportError:
        raise EngineError("export to openvino: not installed; pip install 'bertpress[openvino]'") from None

    target = folder / "openvino"
    target.mkdir(parents=True, exist_ok=True)
    write_metadata(model, target, metadata)
    paths = []
    for name, traced in exportables(model).items():
        paths.append(target / f"{name}.xml")
        openvino.save_model(_graph(traced), paths[-1], compress_to_fp16=half)
    if len(paths) > 1:
        share_openvino(paths)
    return paths[0]


def _graph(traced: Exportable) -> Any:
    """The graph of what is traced."""
    import openvino

    example = traced.example()
    with quiet(), untold():
        # traced here, since the converter's own tracing runs the model three more times to check itself
        script = torch.jit.trace(traced, example, check_trace=False)
        graph = openvino.convert_model(script)
    for port, name, tensor in zip(graph.inputs, traced.inputs, example, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1, *tensor.shape[2:]]))
    for port, name in zip(graph.outputs, traced.outputs, strict=True):
        port.get_tensor().set_names({name})
    look_up_integers(graph)
    if traced.shape.activation_scales == "dynamic":
        scale_products(graph)
    graph.validate_nodes_and_infer_types()
    return graph


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

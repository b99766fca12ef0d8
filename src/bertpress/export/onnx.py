"""To ONNX: ``onnx/model.onnx``, integers as integers (QuantizeLinear / DequantizeLinear), any batch and length.

Beside the graph of a model that can be run in parts (early exits: ``exit-0.onnx`` and so on; passages that can be kept:
``lower.onnx`` and ``upper.onnx``) lie those of its parts; the weights of all lie in ``model.onnx.data``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.quantizers import ONNX_OPSET, onnx_mode
from bertpress.errors import EngineError
from bertpress.export.sharing import Constants, share_onnx
from bertpress.export.tracing import Exportable, exportables, quiet, write_metadata

if TYPE_CHECKING:
    import onnx

LARGEST_FILE_BYTES = 1_800_000_000  # protobuf ends at 2 GB; above, weights go to model.onnx.data


def export(model: BertpressPreTrainedModel, folder: Path, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Convert ``model``; weights with an integer grid in ``model.storage`` become int8 initializers.

    Args:
        model: with every transform baked; stays as it is.
        folder: gets a folder ``onnx``.
        metadata: task, max_length and the like, for ``metadata.json`` beside the graph.

    Returns:
        The path of ``model.onnx``.

    Raises:
        EngineError: onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise EngineError(f"export to onnx: {error.name} not installed; pip install 'bertpress[onnx]'") from None

    target = folder / "onnx"
    target.mkdir(parents=True, exist_ok=True)
    write_metadata(model, target, metadata)
    path, found = target / "model.onnx", exportables(model)
    onnx_mode(found["model"])
    constants = Constants(path.with_name(f"{path.name}.data")) if len(found) > 1 else None
    for name, traced in found.items():
        graph = _graph(traced)
        if constants is not None:
            share_onnx(graph.graph, constants)
        external = graph.ByteSize() > LARGEST_FILE_BYTES
        location = f"{path.name}.data" if external else None
        onnx.save(graph, target / f"{name}.onnx", save_as_external_data=external, location=location)
    return path


def _graph(traced: Exportable) -> onnx.ModelProto:
    """The graph of what is traced."""
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    with quiet():
        program = torch.onnx.export(
            traced,
            traced.example(),
            dynamo=True,
            dynamic_shapes={"inputs": (sizes,) * len(traced.inputs)},
            input_names=traced.inputs,
            output_names=traced.outputs,
            opset_version=ONNX_OPSET,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    fold_transposes(graph.graph)
    if traced.shape.activation_scales == "dynamic":
        scale_products(graph.graph)
    look_up_integers(graph.graph)
    store_once(graph.graph)
    drop_unused(graph.graph)
    del graph.metadata_props[:]
    for node in graph.graph.node:
        del node.metadata_props[:]  # stack traces of this machine, a tenth of a small file
    return graph


def fold_transposes(graph: onnx.GraphProto) -> int:
    """Turn Transpose(DequantizeLinear(integers)) into DequantizeLinear of integers that lie transposed in the file.

    Returns:
        How many were folded.
    """
    from onnx import helper, numpy_helper

    stored, makers = _stored(graph), _makers(graph)
    looked_up = {maker.input[0] for _, maker in _readers_of(graph, makers, "Gather")}
    count = 0
    for transpose, maker in _readers_of(graph, makers, "Transpose"):
        table = stored[maker.input[0]]
        if table.name in looked_up:  # a tied decoder: turned, the table would lie in the file twice
            continue
        if list(_attribute(transpose, "perm", [1, 0])) != [1, 0] or len(table.dims) != 2:
            continue
        name = f"{maker.input[0]}.transposed"
        if name not in stored:
            turned = numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(table).T), name)
            graph.initializer.append(turned)
            stored[name] = turned
        axis = 1 - _attribute(maker, "axis", 1)
        fresh = helper.make_node("DequantizeLinear", [name, *maker.input[1:]], list(transpose.output), axis=axis)
        _replace(graph, transpose, [fresh])
        count += 1
    return count


def scale_products(graph: onnx.GraphProto) -> int:
    """Turn MatMul(Mul(DequantizeLinear(x), s), w) into Mul(MatMul(DequantizeLinear(x), w), s); s is one for each row.

    So a runtime finds two dequantized operands, and multiplies their integers.

    Returns:
        How many products were turned.
    """
    from onnx import helper

    makers = _makers(graph)
    count = 0
    for product in [node for node in graph.node if node.op_type == "MatMul"]:
        scaled = makers.get(product.input[0])
        if scaled is None or scaled.op_type != "Mul":
            continue
        steps, scale = scaled.input
        if steps not in makers or makers[steps].op_type != "DequantizeLinear":
            continue
        (out,), weight = product.output, product.input[1]
        fresh = [
            helper.make_node("MatMul", [steps, weight], [f"{out}.unscaled"]),
            helper.make_node("Mul", [f"{out}.unscaled", scale], [out]),
        ]
        _replace(graph, product, fresh)
        count += 1
    return count


def look_up_integers(graph: onnx.GraphProto) -> int:
    """Turn Gather(DequantizeLinear(table), ids) into Gather(table, ids), cast, times Gather(scale, ids).

    So a runtime multiplies the rows that it found, and keeps the table as integers.  Symmetric tables alone.

    Returns:
        How many lookups were rewritten.
    """
    from onnx import TensorProto, helper, numpy_helper

    stored, makers = _stored(graph), _makers(graph)
    count = 0
    for gather, maker in _readers_of(graph, makers, "Gather"):
        zeros = stored.get(maker.input[2]) if len(maker.input) > 2 else None
        per_row = _attribute(maker, "axis", 1) == 0 and len(stored[maker.input[1]].dims) == 1
        if not per_row or _attribute(gather, "axis", 0) != 0 or (zeros and numpy_helper.to_array(zeros).any()):
            continue
        scale, ids, out = f"{maker.input[1]}.column", gather.input[1], gather.output[0]
        if scale not in stored:
            stored[scale] = numpy_helper.from_array(numpy_helper.to_array(stored[maker.input[1]])[:, None], scale)
            graph.initializer.append(stored[scale])
        fresh = [
            helper.make_node("Gather", [maker.input[0], ids], [f"{out}.integers"]),
            helper.make_node("Cast", [f"{out}.integers"], [f"{out}.unscaled"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [scale, ids], [f"{out}.scale"]),
            helper.make_node("Mul", [f"{out}.unscaled", f"{out}.scale"], [out]),
        ]
        _replace(graph, gather, fresh)
        count += 1
    return count


def store_once(graph: onnx.GraphProto) -> int:
    """Let all readers of equal initializers read one of them.

    The exporter transposes a small matrix anew for each layer that shares it.

    Returns:
        How many are no longer read.
    """
    first: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    for tensor in graph.initializer:
        anonymous = type(tensor)()
        anonymous.CopyFrom(tensor)
        anonymous.ClearField("name")
        content = sha256(anonymous.SerializeToString(deterministic=True)).digest()
        renamed[tensor.name] = first.setdefault(content, tensor.name)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    return len(renamed) - len(first)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers that nothing reads any more."""
    outputs = {port.name for port in graph.output}
    while True:
        read = outputs | {name for node in graph.node for name in node.input}
        idle = [node for node in graph.node if not read & set(node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    names = {node_output for node in graph.node for node_output in node.output}
    del graph.initializer[:]
    graph.initializer.extend(kept)
    infos = [info for info in graph.value_info if info.name in names]
    del graph.value_info[:]
    graph.value_info.extend(infos)


def _stored(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in graph.initializer}


def _makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _readers_of(
    graph: onnx.GraphProto, makers: Mapping[str, onnx.NodeProto], kind: str
) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Nodes of a kind whose first input is a dequantized initializer, with the node that dequantizes."""
    stored = _stored(graph)
    for node in [node for node in graph.node if node.op_type == kind]:
        maker = makers.get(node.input[0])
        if maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] in stored:
            yield node, maker


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def _replace(graph: onnx.GraphProto, old: onnx.NodeProto, fresh: list[onnx.NodeProto]) -> None:
    place = list(graph.node).index(old)
    graph.node.remove(old)
    for offset, node in enumerate(fresh):
        graph.node.insert(place + offset, node)

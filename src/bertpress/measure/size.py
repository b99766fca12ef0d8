"""Bytes on disk: of the very files that an engine loads, and of the packed artifact beside them.

Everything is read from the files' own headers and graphs, so a size needs neither the engine nor the model
in memory. The embeddings are the tables, their norm and their projection, as in ``Blueprint.parameters()``.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from bertpress.errors import ArtifactError, ModelError

BERT_BASE_PARAMETERS = 109_482_240
BERT_BASE_BYTES = 4 * BERT_BASE_PARAMETERS
LARGEST_HEADER_BYTES = 100_000_000

_EMBEDDING = re.compile(r"(^|[._])embeddings?[._]")
_PASSES_ON = frozenset({"Convert", "Multiply", "Subtract", "Reshape", "FakeQuantize", "FakeConvert"})
_LOOKS_UP = frozenset({"Gather", "StridedSlice", "Slice"})


class Size(NamedTuple):
    """Bytes of the files that one engine loads, and of the packed weights.

    ``weight_bytes_without_embeddings`` is None where the file does not tell which of its bytes are
    embeddings.
    """

    weight_bytes: int
    weight_bytes_without_embeddings: int | None
    artifact_bytes: int
    files: tuple[str, ...]

    def as_keys(self, teacher_bytes: int | None = None) -> dict[str, Any]:
        """The keys of the results, with percentages of BERT-base in float32 and of a teacher's file."""
        keys: dict[str, Any] = {
            "weight_bytes": self.weight_bytes,
            "weight_bytes_without_embeddings": self.weight_bytes_without_embeddings,
            "artifact_bytes": self.artifact_bytes,
            "files": list(self.files),
            "percent_of_bert_base": round(100 * self.weight_bytes / BERT_BASE_BYTES, 2),
        }
        if teacher_bytes:
            keys["percent_of_teacher"] = round(100 * self.weight_bytes / teacher_bytes, 2)
        return keys


def size(folder: Path, engine: str = "torch") -> Size:
    """Measure a model folder or artifact as one engine sees it.

    Args:
        folder: of an artifact or a plain transformers model.
        engine: ``torch`` (safetensors), ``openvino`` (xml and bin), ``onnxruntime`` (onnx and its data).

    Raises:
        ModelError: the folder has no file for this engine.
        ArtifactError: a file of it cannot be read.
    """
    packed = safetensors_files(folder)
    artifact_bytes = sum(path.stat().st_size for path in packed)
    if engine == "openvino":
        files = _files(folder, "openvino", (".xml", ".bin"))
        embeddings = sum(openvino_embedding_bytes(path) for path in files if path.name == "model.xml")
    elif engine == "onnxruntime":
        files = _files(folder, "onnx", (".onnx", ".data"))
        embeddings = sum(onnx_embedding_bytes(path) for path in files if path.name == "model.onnx")
    else:
        if not packed:
            raise ModelError(f"{folder}: has no *.safetensors file")
        files = packed
        embeddings = sum(safetensors_embedding_bytes(path) for path in files)
    total = sum(path.stat().st_size for path in files)
    names = tuple(path.relative_to(folder).as_posix() for path in files)
    return Size(total, total - embeddings if embeddings else None, artifact_bytes, names)


def safetensors_files(folder: Path) -> list[Path]:
    """The weights of a folder: one file, or the shards that the index names."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    return sorted(folder.glob("model-*-of-*.safetensors"))


def _files(folder: Path, kind: str, suffixes: tuple[str, ...]) -> list[Path]:
    found = sorted(path for path in (folder / kind).glob("*") if path.suffix in suffixes)
    if not any(path.suffix == suffixes[0] for path in found):
        raise ModelError(f"{folder}: has no {kind}/*{suffixes[0]}; export it first")
    return found


def safetensors_tensors(path: Path) -> dict[str, int]:
    """Bytes of every tensor in a file, from its header.

    Raises:
        ArtifactError: the file is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LARGEST_HEADER_BYTES:
                raise ValueError(f"header of {length} bytes")
            header = json.loads(file.read(length))
        return {
            name: entry["data_offsets"][1] - entry["data_offsets"][0]
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: is no safetensors file ({error})") from None


def safetensors_embedding_bytes(path: Path) -> int:
    """Bytes of the tensors whose names, ours or those of transformers, say that they are embeddings."""
    return sum(size for name, size in safetensors_tensors(path).items() if is_embedding(name))


def is_embedding(name: str) -> bool:
    """Whether a weight belongs to the embeddings by its name.

    >>> is_embedding("encoder.embeddings.word.weight::q"), is_embedding("encoder.layers.0.ffn.0.inner.weight")
    (True, False)
    """
    return _EMBEDDING.search(name) is not None


def openvino_embedding_bytes(path: Path) -> int:
    """Bytes of the constants that a lookup reads, and of their scales, in an OpenVINO graph.

    Raises:
        ArtifactError: the file is no OpenVINO graph.
    """
    try:
        root = ElementTree.parse(path).getroot()
        layers = {layer.attrib["id"]: layer for layer in root.iterfind("layers/layer")}
        inputs: dict[str, dict[int, str]] = {}
        for edge in root.iterfind("edges/edge"):
            ports = inputs.setdefault(edge.attrib["to-layer"], {})
            ports[int(edge.attrib["to-port"])] = edge.attrib["from-layer"]
    except (ElementTree.ParseError, KeyError, ValueError, OSError) as error:
        raise ArtifactError(f"{path}: is no OpenVINO graph ({error})") from None

    def constants(node: str) -> Iterator[str]:
        kind = layers[node].attrib["type"]
        if kind == "Const":
            yield node
        elif kind in _PASSES_ON:
            for source in inputs.get(node, {}).values():
                yield from constants(source)

    found: set[str] = set()
    for node, layer in layers.items():
        if layer.attrib["type"] in _LOOKS_UP and 0 in inputs.get(node, {}):
            found |= {name for name in constants(inputs[node][0]) if _holds_weights(layers[name])}
    return sum(int(_data(layers[name]).get("size", 0)) for name in found)


def _holds_weights(constant: ElementTree.Element) -> bool:
    return _data(constant).get("element_type") not in ("i64", "i32", "boolean")


def _data(constant: ElementTree.Element) -> dict[str, str]:
    data = constant.find("data")
    return {} if data is None else data.attrib


def onnx_embedding_bytes(path: Path) -> int:
    """Bytes of the initializers that a lookup reads, and of their scales, in an ONNX graph."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    passing = {"DequantizeLinear", "QuantizeLinear", "Cast", "Identity", "Reshape"}

    def initializers(name: str) -> Iterator[str]:
        if name in stored:
            yield name
        elif name in makers and makers[name].op_type in passing:
            for source in makers[name].input:
                yield from initializers(source)

    lookups = [node for node in graph.node if node.op_type in ("Gather", "Slice")]
    names = {name for node in lookups for name in initializers(node.input[0])}
    integers = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    return sum(_tensor_bytes(stored[name]) for name in names if stored[name].data_type not in integers)


def _tensor_bytes(tensor: Any) -> int:
    external = {entry.key: entry.value for entry in tensor.external_data}
    if "length" in external:
        return int(external["length"])
    from onnx.helper import tensor_dtype_to_np_dtype

    count = 1
    for dimension in tensor.dims:
        count *= dimension
    return int(count * tensor_dtype_to_np_dtype(tensor.data_type).itemsize)

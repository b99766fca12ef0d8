"""One file of constants for several graphs: a model and the segments of it between early exits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    import onnx

ALIGNMENT = 64
SMALLEST = 1024  # bytes of an ONNX initializer that is worth a place outside of its graph


class Constants:
    """A file in which every constant lies once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[bytes, int] = {}
        self._end = 0
        path.write_bytes(b"")

    def place(self, constant: bytes) -> int:
        """Where it lies; it is written when it is new."""
        key = hashlib.sha256(constant).digest()
        if key not in self._places:
            padding = -self._end % ALIGNMENT
            with self.path.open("ab") as file:
                file.write(b"\0" * padding + constant)
            self._places[key] = self._end + padding
            self._end += padding + len(constant)
        return self._places[key]


def share_openvino(graphs: Sequence[Path]) -> None:
    """Let all graphs (xml, each with its bin) read the bin of the first; the others' are deleted."""
    shared = Constants(graphs[0].with_suffix(".shared"))
    for path in graphs:
        tree, own = ElementTree.parse(path), path.with_suffix(".bin").read_bytes()
        for data in tree.getroot().iter("data"):
            if "offset" in data.attrib and "size" in data.attrib:
                start, size = int(data.attrib["offset"]), int(data.attrib["size"])
                data.attrib["offset"] = str(shared.place(own[start : start + size]))
        tree.write(path, encoding="utf-8", xml_declaration=True)
        path.with_suffix(".bin").unlink()
    shared.path.rename(graphs[0].with_suffix(".bin"))


def share_onnx(graph: onnx.GraphProto, constants: Constants) -> None:
    """Move the large initializers of a graph out into ``constants``, beside which it will lie."""
    from onnx.external_data_helper import set_external_data

    for tensor in graph.initializer:
        if len(tensor.raw_data) >= SMALLEST:
            set_external_data(tensor, constants.path.name, constants.place(tensor.raw_data), len(tensor.raw_data))
            tensor.ClearField("raw_data")

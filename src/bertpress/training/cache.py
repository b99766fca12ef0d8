"""A teacher's logits on disk: computed once, in a canonical order, then read through a memory map.

Rows are sorted by length and cut into chunks; one forward pass fills one chunk, so the stored bits are a function
of teacher, data and precision alone, whatever run filled them and however often it was killed.  The header is
rewritten after each sync with a checksum of every chunk; a chunk that does not match is computed again.
"""

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertpress.training.checkpoint import machine_error, write_atomically

FORMAT = 1
_CHUNK = 64  # rows
_SYNC_SECONDS = 5.0
_HASHED = ("input_ids", "token_type_ids", "teacher_input_ids", "teacher_token_type_ids")
Floats = npt.NDArray[np.float32]
Compute = Callable[[list[int]], list[Floats]]


class LogitsCache:
    """Logits of some rows of a data set, (labels,) a row or (tokens, labels).

    Attributes:
        path: the data file; its header stands beside it with the suffix ``.json``.
    """

    def __init__(self, folder: Path, teacher: str, data: Any, rows: Sequence[int]) -> None:
        """Name the cache after its content.

        Args:
            folder: where caches live.
            teacher: digest of the teacher's weights and precision.
            data: items with ``input_ids``, ``token_type_ids`` and ``index``.
            rows: which items to hold.
        """
        self.order = sorted(rows, key=lambda row: (data.lengths[row], row))
        self.lengths = [int(data.lengths[row]) for row in self.order]
        digest = hashlib.sha256(f"{FORMAT} {_CHUNK} {teacher}".encode())
        self.slots: dict[int, int] = {}
        for slot, row in enumerate(self.order):
            item = data[row]
            self.slots[int(item["index"])] = slot
            for name in _HASHED:
                ids = np.ascontiguousarray(item.get(name, ()), np.int32)
                digest.update(f"{name} {ids.size} ".encode() + ids.tobytes())
        self.key = digest.hexdigest()
        self.path = folder / f"logits-{self.key[:32]}.f32"
        self.header_path = self.path.with_suffix(".json")
        self.checksums: list[int] = []
        self.width, self.by_token = 0, False
        self._map: Floats | None = None
        self._starts: tuple[int, bool, npt.NDArray[np.int64]] | None = None

    @property
    def chunks(self) -> int:
        """Number of chunks when full."""
        return -(-len(self.order) // _CHUNK)

    @property
    def full(self) -> bool:
        """Whether every row is there."""
        return len(self.checksums) == self.chunks

    @property
    def size_bytes(self) -> int:
        """Bytes of the data file when full; known once a row has been computed."""
        return int(self._offsets()[-1]) * 4

    def fill(self, compute: Compute, *, cap_bytes: int, report: Callable[[int, int], None]) -> bool:
        """Compute what is missing.

        Args:
            compute: rows of the data set to their logits.
            cap_bytes: do nothing if the whole would be larger.
            report: told rows done and rows in all.

        Returns:
            Whether the cache is there and full; False if it would exceed the cap.

        Raises:
            MachineError: no space left.
        """
        self._open_header()
        if self.full:
            return self._load(cap_bytes)
        first = compute(self._rows(len(self.checksums)))
        self.width, self.by_token = first[0].shape[-1], first[0].ndim == 2
        if self.size_bytes > cap_bytes:
            return False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.truncate(self.size_bytes)
                self._compute_all(file, compute, first, report)
        except OSError as error:
            raise machine_error(self.path, error) from error
        return self._load(cap_bytes)

    def read(self, indices: Sequence[int], tokens: int) -> Floats:
        """Logits of examples by their stable ``index``.

        Args:
            indices: (batch,), as in the batch.
            tokens: width of the batch.

        Returns:
            (batch, labels), or (batch, tokens, labels) with zeros at pads.
        """
        if self._map is None:
            raise RuntimeError(f"{self.path}: read before it was filled")
        offsets = self._offsets()
        if not self.by_token:
            slots = [self.slots[i] for i in indices]
            return np.asarray(self._map.reshape(-1, self.width)[slots])
        out = np.zeros((len(indices), tokens, self.width), np.float32)
        for row, index in enumerate(indices):
            slot = self.slots[index]
            out[row, : self.lengths[slot]] = self._map[offsets[slot] : offsets[slot + 1]].reshape(-1, self.width)
        return out

    def _compute_all(
        self, file: Any, compute: Compute, first: list[Floats], report: Callable[[int, int], None]
    ) -> None:
        synced = time.monotonic()
        for chunk in range(len(self.checksums), self.chunks):
            logits = first if first else compute(self._rows(chunk))
            first = []
            content = np.concatenate([row.reshape(-1) for row in logits]).astype("<f4").tobytes()
            file.seek(int(self._offsets()[chunk * _CHUNK]) * 4)
            file.write(content)
            self.checksums.append(zlib.crc32(content))
            if self.full or time.monotonic() - synced > _SYNC_SECONDS:
                file.flush()
                os.fsync(file.fileno())
                self._write_header()
                synced = time.monotonic()
            report(min((chunk + 1) * _CHUNK, len(self.order)), len(self.order))

    def _rows(self, chunk: int) -> list[int]:
        return self.order[chunk * _CHUNK : (chunk + 1) * _CHUNK]

    def _offsets(self) -> npt.NDArray[np.int64]:
        """Where each row starts, counted in floats; (rows + 1,)."""
        if self._starts is None or self._starts[:2] != (self.width, self.by_token):
            tokens = np.asarray(self.lengths if self.by_token else [1] * len(self.order), np.int64)
            self._starts = (self.width, self.by_token, np.concatenate([[0], np.cumsum(tokens * self.width)]))
        return self._starts[2]

    def _write_header(self) -> None:
        header = {
            "format": FORMAT, "key": self.key, "rows": len(self.order), "width": self.width,
            "by_token": self.by_token, "checksums": self.checksums,
        }  # fmt: skip
        write_atomically(self.header_path, lambda file: file.write(json.dumps(header).encode()))

    def _open_header(self) -> None:
        """Take over the chunks of an earlier run that are whole; a stale or torn cache has none."""
        self.checksums, self._map = [], None
        try:
            header = json.loads(self.header_path.read_text("utf-8"))
            if (header["format"], header["key"], header["rows"]) != (FORMAT, self.key, len(self.order)):
                return
            self.width, self.by_token = int(header["width"]), bool(header["by_token"])
            if self.path.stat().st_size != self.size_bytes:
                return
            self.checksums = self._whole(list(header["checksums"]))
        except (OSError, ValueError, KeyError, TypeError):
            return

    def _whole(self, checksums: list[int]) -> list[int]:
        offsets, good = self._offsets(), []
        with self.path.open("rb") as file:
            for chunk, expected in enumerate(checksums[: self.chunks]):
                start, end = chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(self.order))
                if zlib.crc32(file.read(int(offsets[end] - offsets[start]) * 4)) != expected:
                    break
                good.append(expected)
        return good

    def _load(self, cap_bytes: int) -> bool:
        if self.size_bytes > cap_bytes:
            return False
        self._map = np.memmap(self.path, np.dtype("<f4"), mode="r", shape=(self.size_bytes // 4,))
        return True

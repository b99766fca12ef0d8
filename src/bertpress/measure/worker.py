"""A process that holds one model on one engine and answers requests, a JSON object a line each way.

    python -m bertpress.measure.worker

Requests are ``{"op": NAME, ...}``, answers ``{"ok": {...}}`` or ``{"error": {"type", "message"}}``.  The
first line is ``{"ready": true}``: from then on standard output belongs to the answers alone, and whatever a
library prints goes to standard error.  See :mod:`bertpress.measure.process` for the other side.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from bertpress.errors import BertpressError, UserError
from bertpress.measure.memory import peak_resident_bytes, resident_bytes
from bertpress.measure.texts import Answers, Reader, Text, from_wire
from bertpress.untold import untold

if TYPE_CHECKING:
    from bertpress.engines import Speed

Clock = Callable[[], int]
clock: Clock = time.perf_counter_ns
NS_PER_MS = 1e6


class Bench:
    """One loaded model and what can be asked of it."""

    def __init__(self) -> None:
        self.memory = {"start_bytes": resident_bytes()}

    def load(
        self,
        *,
        folder: str,
        engine: str,
        threads: int,
        max_length: int = 128,
        speed: Speed | None = None,
        lengths: Sequence[int] = (),
    ) -> dict[str, Any]:
        """Load a model folder on an engine; tells seconds and resident memory before and after."""
        from bertpress.engines import NAMES, load_engine

        if engine in NAMES:
            with suppress(ImportError), untold():  # which the engine will tell in its own words
                import_module(engine)
        self.memory["imported_bytes"] = resident_bytes()
        began = clock()
        self.engine = load_engine(engine, Path(folder), threads, speed, lengths)
        self.reader, self.answers = Reader(Path(folder), max_length), Answers(Path(folder))
        self.memory["loaded_bytes"] = resident_bytes()
        return {"seconds": (clock() - began) / 1e9, "kind": self.answers.kind, "memory": self.peak()}

    def time(self, *, texts: Sequence[dict[str, Any]], warm: int = 0) -> dict[str, Any]:
        """Time texts one by one.

        Args:
            texts: as on the wire.
            warm: the first so many are run once, untimed, before the clock counts.

        Returns:
            ``latency_ms`` text in to label out, ``model_latency_ms`` the engine alone, and ``tokens``, one
            a text.
        """
        items = [from_wire(text) for text in texts]
        for text in items[:warm]:
            self._answer(text)
        timings = [self._answer(text) for text in items]
        total, model, tokens = zip(*timings, strict=True)
        return {"latency_ms": total, "model_latency_ms": model, "tokens": tokens}

    def _answer(self, text: Text) -> tuple[float, float, int]:
        began = clock()
        batch = self.reader.collate(self.reader.features(text))
        ready = clock()
        logits = self.engine.logits(batch)
        done = clock()
        self.answers.of(logits, batch["attention_mask"])
        return (clock() - began) / NS_PER_MS, (done - ready) / NS_PER_MS, batch["input_ids"].shape[1]

    def throughput(self, *, texts: Sequence[dict[str, Any]], batch_size: int = 32, passes: int = 3) -> dict[str, Any]:
        """Examples a second, text in to label out, in batches of like length, after a pass to warm up."""
        items = [from_wire(text) for text in texts]
        seconds = [self._sweep(items, batch_size) for _ in range(passes + 1)][1:]
        rates = [len(items) / second for second in seconds]
        return {"per_s": rates, "examples": len(items), "batch_size": batch_size}

    def _sweep(self, items: Sequence[Text], batch_size: int) -> float:
        began = clock()
        encoded = [one for text in items for one in self.reader.features(text)]
        encoded.sort(key=lambda one: len(one["input_ids"]))
        for start in range(0, len(encoded), batch_size):
            batch = self.reader.collate(encoded[start : start + batch_size])
            self.answers.of(self.engine.logits(batch), batch["attention_mask"])
        return (clock() - began) / 1e9

    def logits(self, *, texts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Logits (rows, ...) and answers of each text, run one by one; a text has one row, but see ``features``."""
        arrays, answers = [], []
        for text in texts:
            batch = self.reader.collate(self.reader.features(from_wire(text)))
            found = self.engine.logits(batch)
            answers.append(self.answers.of(found, batch["attention_mask"]))
            arrays.append(pack(found))
        return {"logits": arrays, "answers": answers}

    def peak(self) -> dict[str, Any]:
        """Resident bytes at the start, after the imports, after the load, and the highest so far."""
        return {**self.memory, "peak_bytes": peak_resident_bytes()}


OPERATIONS = frozenset({"load", "time", "throughput", "logits", "peak"})


def pack(array: Any) -> dict[str, Any]:
    """A float32 array as JSON."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    return {"shape": list(array.shape), "float32": base64.b64encode(array.tobytes()).decode("ascii")}


def unpack(packed: dict[str, Any]) -> Any:
    """The inverse of :func:`pack`."""
    return np.frombuffer(base64.b64decode(packed["float32"]), dtype=np.float32).reshape(packed["shape"])


def answer(bench: Bench, line: str) -> dict[str, Any]:
    """The answer to one request; faults become answers too, with their trace on standard error."""
    try:
        request = json.loads(line)
        name = request.pop("op")
        if name not in OPERATIONS:
            raise ValueError(f"op={name!r} must be one of {sorted(OPERATIONS)}")
        return {"ok": getattr(bench, name)(**request)}
    except UserError as error:
        return {"error": {"type": type(error).__name__, "message": str(error)}}
    except BertpressError as error:
        return {"error": {"type": "BertpressError", "message": str(error)}}
    except Exception as error:
        traceback.print_exc()
        return {"error": {"type": "BertpressError", "message": f"{type(error).__name__}: {error}"}}


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer until the requests end."""
    bench = Bench()
    answers.write('{"ready": true}\n')
    answers.flush()
    for line in requests:
        answers.write(json.dumps(answer(bench, line)) + "\n")
        answers.flush()


def main() -> None:
    """Take standard output for the answers, then serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends us by closing our input
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()

"""Answers of an artifact, to texts as they come or about passages that it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertpress.artifact import Artifact
from bertpress.engines import Speed
from bertpress.engines.states import Store
from bertpress.errors import DataError
from bertpress.inputs import opened, passages_of
from bertpress.measuring import Engine


def predict(
    artifact: str | Path | Artifact,
    texts: Iterable[Any],
    *,
    engine: Engine = "torch",
    batch_size: int = 32,
    threads: int | None = None,
    speed: Speed | None = None,
    max_drop: float | None = None,
    lengths: Sequence[int] = (),
    passages: str | Path | Mapping[str, str] | None = None,
    states: str | Path | None = None,
    store: Store = "float32",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Any]:
    """Answer texts as they come; see :meth:`bertpress.artifact.Artifact.predict`.

    Args:
        artifact: or its folder.
        texts: as there; with passages each is a text and the name of a passage.
        engine: what runs the artifact.
        batch_size: texts that are read before the first is answered.
        threads: of the engine; all cores when None.
        speed: as there; not with passages.
        max_drop: as there; not with passages.
        lengths: as there; not with passages.
        passages: that the texts are about: by name, or a file; their lower states are computed once and kept.  Of a
            model whose lower layers read the two texts apart.
        states: folder where they are kept; None: beside the file, with the ending ``.states``.
        store: how: float32, float16 or int8.
        progress: is told how many are there, and of how many.

    Raises:
        ArtifactError: the artifact cannot keep passages.
        DataError: a file or an entry is not of the form; ``states`` is missing.
    """
    made = opened(artifact)
    if passages is None:
        return made.predict(
            texts,
            engine=engine,
            batch_size=batch_size,
            threads=threads,
            speed=speed,
            max_drop=max_drop,
            lengths=lengths,
        )
    if speed is not None or max_drop is not None:
        raise DataError("speed, max_drop: a model with early exits keeps no passages")
    if lengths:
        raise DataError("lengths: texts about passages run in graphs of any length")
    if states is None:
        if not isinstance(passages, str | Path):
            raise DataError("states: passages in memory need a folder for their states")
        states = f"{passages}.states"
    reader = made.reader(passages_of(passages), Path(states).expanduser(), engine=engine, threads=threads, store=store)
    reader.precompute(progress)
    return reader.stream(texts, batch_size)

"""Commands that put an artifact to use."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from bertpress.cli.shared import whole_numbers
from bertpress.options import ArtifactPath, Json, Lengths, MaxDrop, RunsOn, Speed, Store, Target, Threads
from bertpress.terminal import Answer, answering, as_json, meter

Option = typer.Option


@answering
def predict(
    artifact: ArtifactPath,
    engine: RunsOn = "torch",
    batch: Annotated[int, Option("--batch", min=1, help="Texts that are read before the first is answered.")] = 32,
    passages: Annotated[
        Path | None, Option("--passages", help="File of passages that the texts name, encoded once.")
    ] = None,
    states: Annotated[Path | None, Option("--states", help="Folder that keeps them; else FILE.states.")] = None,
    store: Annotated[Store, Option("--store", help="How they are kept.")] = "float32",
    speed: Speed = None,
    max_drop: MaxDrop = None,
    lengths: Lengths = None,
    threads: Threads = None,
    json_: Json = False,
) -> Answer:
    """Answer texts on standard input, one JSON object a line.

    Each line is a text.  A line for a task of two texts is a JSON list or object, or the two with a tab between.  With
    passages (one a line, or a table with the columns id and text) the second is the name or the number of a passage.
    """
    from bertpress import api
    from bertpress.inputs import texts_from

    opened = api.load(artifact)
    lines = texts_from(sys.stdin, opened.task)
    answers = api.predict(
        opened,
        lines,
        engine=engine,
        batch_size=batch,
        threads=threads,
        speed=speed,
        max_drop=max_drop,
        lengths=whole_numbers("--lengths", lengths),
        passages=passages,
        states=states,
        store=store,
        progress=meter("passages"),
    )
    objects: Iterator[Any] = (one if isinstance(one, dict) else {"words": one} for one in answers)
    if json_:
        return Answer({"artifact": str(opened.path), "engine": engine, "predictions": list(objects)})
    return Answer(shown=map(as_json, objects))


@answering
def export(
    artifact: ArtifactPath,
    to: Annotated[Target, Option("--to", help="What the files are for.")],
    out: Annotated[Path | None, Option("--out", help="Folder; else into the artifact (not transformers).")] = None,
    width: Annotated[float | None, Option("--width", help="Cut out this share of the heads and neurons.")] = None,
    depth: Annotated[float | None, Option("--depth", help="Cut out this share of the layers.")] = None,
    json_: Json = False,
) -> Answer:
    """Write an artifact for OpenVINO, ONNX or plain transformers.

    Plain transformers needs a uniform shape: all layers alike.  A width or a depth makes an artifact of one sub-network
    of a model that has them, such as the recipe dynabert leaves.
    """
    from bertpress import api

    path = api.export(artifact, to=to, out=out, width=width, depth=depth)
    return Answer({"artifact": str(artifact), "to": to, "path": str(path)}, [str(path)])

"""The options that several commands share, each written once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Engine = Literal["torch", "onnxruntime", "openvino"]
Target = Literal["openvino", "onnx", "transformers"]
Store = Literal["float32", "float16", "int8"]
Option = typer.Option

Model = Annotated[str, typer.Argument(help="Hub name or folder of a model.")]
ArtifactPath = Annotated[Path, typer.Argument(help="Folder of an artifact, or of the run that made it.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object and nothing else.")]
Task = Annotated[str, Option("--task", help="A task such as sst2, or a kind such as text-classification.")]
OwnTask = Annotated[str | None, Option("--task", help="A task; the artifact's own where it is left out.")]
Data = Annotated[Path | None, Option("--data", help="Folder of train.* and validation.*; else the hub is asked.")]
Out = Annotated[Path, Option("--out", help="Folder that is made.")]
Seed = Annotated[int, Option("--seed", min=0, help="Decides everything random.")]
Resume = Annotated[bool, Option("--resume", help="Go on with the run in --out.")]
Threads = Annotated[int | None, Option("--threads", min=1, help="Of whatever is timed; all cores otherwise.")]
RunsOn = Annotated[Engine, Option("--engine", help="What runs the artifact.")]
Speed = Annotated[
    str | None,
    Option(
        "--speed", help="Of early exits: 0 (all layers) to 1 (the first exit), or a mean time, 1.5ms; else its own."
    ),
]
MaxDrop = Annotated[
    float | None, Option("--max-drop", help="Instead of --speed: points that early exits may cost, by their curve.")
]
Lengths = Annotated[
    str | None,
    Option("--lengths", help="Single texts are padded to the next of these, such as 16,32,64: graphs of openvino."),
]
TextColumns = Annotated[str | None, Option("--text-columns", help="One column, or two with a comma between.")]
LabelColumn = Annotated[str | None, Option("--label-column", help="Column of labels, scores, tags or answers.")]
MaxLength = Annotated[int | None, Option("--max-length", help="Tokens of one input.")]
Metric = Annotated[str | None, Option("--metric", help="The metric that counts, such as accuracy or f1_macro.")]
Id2Label = Annotated[Path | None, Option("--id2label", help="JSON file with the names of the labels by id.")]
MultiLabel = Annotated[bool, Option("--multi-label", help="A row has any number of labels.")]
ClassWeights = Annotated[str | None, Option("--class-weights", help="balanced, or numbers with commas between.")]
ReportTo = Annotated[list[str] | None, Option("--report-to", help="A tracker, such as tensorboard; repeatable.")]
TrainLimit = Annotated[int | None, Option("--train-limit", min=1, help="At most so many training rows.")]
ValidationLimit = Annotated[int | None, Option("--validation-limit", min=1, help="At most so many validation rows.")]
Unlabelled = Annotated[
    Path | None, Option("--unlabelled", help="Texts without labels, a file or folder; else those under --data.")
]
Cache = Annotated[
    Path | None,
    Option("--cache", file_okay=False, help="Folder of teachers' answers that runs may share; else one in --out."),
]
Set = Annotated[list[str] | None, Option("--set", help="Change the recipe: PATH=VALUE; repeatable.")]
Profile = Annotated[str | None, Option("--profile", help="A profile of the recipe, such as small.")]

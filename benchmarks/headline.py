r"""The comparison that a user would make: a BERT-base-sized teacher as the usual tools run it, against our artifacts.

    pip install 'bertpress[benchmarks]'
    python benchmarks/headline.py --data DIR [--threads 2] TASK/NAME=FOLDER[@SPEED] ...

The teacher is transformers' own model: PyTorch eager float32, SDPA where it has that, ``torch.compile`` in bfloat16;
ONNX Runtime in float32 and with its dynamic int8; OpenVINO in float32, in bfloat16 and with NNCF's post-training int8.
Each answers the same texts as our artifacts do on OpenVINO, with the same tokenizer around it, text in and label out,
by turns in one process: batch 1, then batches of 32.  Our artifacts and NNCF's integers run in a graph of any length,
and, as rows of their own, in graphs for some lengths, each of which holds the weights once more: ``--fixed`` names
those of ours that get such rows, as all of many large models fill the memory.  Accuracy is that of the validation
split, or of so many texts of it, by the thing that is timed: text by text where those graphs are.  Artifacts are named
after their task: ``sst2/tiny=runs/tiny/model``, with ``@0.1`` behind it at that speed of their early exits.  Writes
results/headline.json and .md.  Those in there were made with the recipes beside this file and the teachers of
``benchmarks/teachers.py``, each by one of

    bertpress compress MODEL --teacher TEACHER --recipe benchmarks/headline-NAME.yaml --task TASK --data DIR \
        --threads 1 --out RUN

    RUNS/NAME being the folder of an earlier line.  On sst2, TEACHER being the MPNet of this comparison:
    NAME      MODEL
    early     TEACHER; "every second layer" with ``--set stages.exits.use.0.every=2``
    half      TEACHER
    six       RUNS/half/stages/01-cut/model
    bytes     TEACHER
    least     RUNS/half/stages/01-cut/model; "of six": RUNS/six/stages/01-cut/model with
              ``--set stages.cut.use.0.drop=0``
    on ag_news, where the fine-tuned MiniLM is MODEL and TEACHER:
    exits     MODEL
    small     MODEL
    bytes     RUNS/small/stages/01-narrow/model; "tokens seen thrice" with ``--set stages.vocabulary.use.0.minimum=3``
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from comparison import CACHE, LENGTHS, markdown, save_timings, teacher_of
from int8_speed import interleaved
from transformers import AutoModelForSequenceClassification

from bertpress import tasks
from bertpress.encoder.imports import load_pretrained
from bertpress.engines import load_engine
from bertpress.engines.lengths import FixedLengths
from bertpress.export.transformers import save_transformers
from bertpress.measure.environment import usable_cores
from bertpress.measure.size import size
from bertpress.measure.statistics import Latency, paired_ratio
from bertpress.measure.texts import Reader
from bertpress.outcome import texts_of

TASKS = ("sst2", "ag_news")
CALIBRATION, TEXTS, BLOCK, BATCH = 300, 64, 8, 32
FIXED = "{}, fixed lengths"
EAGER, NNCF = "transformers, eager float32", "OpenVINO, NNCF int8"
DROPS = (0.5, 1.0, 2.0, 3.0)

Arrays: TypeAlias = "dict[str, np.ndarray[Any, np.dtype[np.int64]]]"
Run: TypeAlias = Callable[[Arrays], Any]
"""From a batch to its logits."""


@dataclass(frozen=True)
class Contender:
    """What is timed.

    Attributes:
        run: the model.
        read: the tokenizer around it.
        bytes: of the file that it loads.
        batch: texts that it answers at once where its accuracy is counted.
    """

    run: Run
    read: Reader
    bytes: int
    batch: int = BATCH

    def answer(self, texts: Sequence[Any]) -> Any:
        """(texts, classes) from texts, in one batch."""
        return self.run(self.read.collate([one for text in texts for one in self.read.features(text)]))


def in_torch(folder: Path, attention: str, *, compiled: bool = False) -> Run:
    """The model of transformers; compiled: in bfloat16, for any length."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation=attention).eval()
    call: Callable[..., Any] = model
    if compiled:
        call = torch.compile(model.to(torch.bfloat16), dynamic=True)

    def run(arrays: Arrays) -> Any:
        with torch.inference_mode():
            return call(**{name: torch.from_numpy(array) for name, array in arrays.items()}).logits.float().numpy()

    return run


def fastest_attention(folder: Path) -> str:
    """PyTorch's fused attention where transformers has it for the model; it has none for MPNet."""
    try:
        AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa")
    except ValueError:
        return "eager"
    return "sdpa"


def to_onnx(folder: Path, example: Arrays, path: Path) -> Path:
    """PyTorch's own export of transformers' model, any batch and length."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    names = list(example)
    inputs = tuple(torch.from_numpy(example[name]) for name in names)
    axes = {name: {0: "batch", 1: "tokens"} for name in names}
    torch.onnx.export(
        Positional(model, names), inputs, str(path), input_names=names, output_names=["logits"],
        dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    return path


class Positional(torch.nn.Module):
    """The model as a function of tensors, for the exporters."""

    def __init__(self, model: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.model(**dict(zip(self.names, tensors, strict=True))).logits
        return logits


def in_onnxruntime(path: Path, threads: int) -> Run:
    """A session with the options that its documentation begins with."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, arrays)[0]


def dynamic_int8(path: Path) -> Path:
    """ONNX Runtime's own quantization that needs no data."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = path.with_name("int8.onnx")
    quantize_dynamic(path, made, weight_type=QuantType.QInt8, per_channel=True)
    return made


class InOpenVINO:
    """A graph, compiled for latency."""

    name: ClassVar[str] = "openvino"

    def __init__(self, graph: Any, threads: int, precision: str) -> None:
        import openvino

        self.graph, self.core = graph, openvino.Core()
        self.settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        self.settings["INFERENCE_PRECISION_HINT"] = precision
        self.requests = {0: self._compiled(graph)}

    def _compiled(self, graph: Any) -> Any:
        return self.core.compile_model(graph, "CPU", self.settings).create_infer_request()

    def fix(self, length: int) -> None:
        """From now on run one row of this many tokens in a graph of its own."""
        graph = self.graph.clone()
        graph.reshape({port.any_name: [1, length] for port in graph.inputs})
        self.requests[length] = self._compiled(graph)

    def logits(self, batch: Arrays) -> Any:
        """(batch, classes)."""
        rows, tokens = batch["input_ids"].shape
        request = self.requests.get(tokens if rows == 1 else 0, self.requests[0])
        return np.array(request.infer({port.any_name: batch[port.any_name] for port in request.model_inputs})[0])

    def file_bytes(self) -> int:
        """Not of a file."""
        return 0


def quantized_by_nncf(graph: Any, batches: Sequence[Arrays]) -> Any:
    """Post-training int8 with NNCF's settings for transformers, ranges from training texts."""
    import nncf

    data, kind = nncf.Dataset(list(batches)), nncf.ModelType.TRANSFORMER
    return nncf.quantize(graph, data, model_type=kind, subset_size=CALIBRATION)


def theirs(folder: Path, training: Sequence[Any], threads: int, scratch: Path) -> Iterator[tuple[str, Contender]]:
    """The teacher, as the usual tools run it, one after the other."""
    import openvino

    read, weights = Reader(folder), size(folder).weight_bytes
    folder = save_transformers(load_pretrained(folder).model, scratch / "plain")
    yield EAGER, Contender(in_torch(folder, "eager"), read, weights)
    attention = fastest_attention(folder)
    if attention != "eager":
        yield f"transformers, {attention} float32", Contender(in_torch(folder, attention), read, weights)
    yield "torch.compile, bfloat16", Contender(in_torch(folder, attention, compiled=True), read, weights)
    batches = [read.collate(read.features(text)) for text in training]
    path = to_onnx(folder, batches[0], scratch / "model.onnx")
    small = dynamic_int8(path)
    yield "ONNX Runtime, float32", Contender(in_onnxruntime(path, threads), read, path.stat().st_size)
    yield "ONNX Runtime, dynamic int8", Contender(in_onnxruntime(small, threads), read, small.stat().st_size)
    graph = openvino.convert_model(path)
    yield "OpenVINO, float32", Contender(InOpenVINO(graph, threads, "f32").logits, read, weights)
    yield "OpenVINO, bfloat16", Contender(InOpenVINO(graph, threads, "bf16").logits, read, weights)
    made = quantized_by_nncf(graph, batches)
    openvino.save_model(made, scratch / "nncf.xml", compress_to_fp16=False)
    stored = (scratch / "nncf.bin").stat().st_size
    yield NNCF, Contender(InOpenVINO(made, threads, "f32").logits, read, stored)
    fixed = InOpenVINO(made, threads, "f32")
    for length in LENGTHS:
        fixed.fix(length)
    pad = json.loads((folder / "config.json").read_text(encoding="utf-8"))["pad_token_id"]
    yield FIXED.format(NNCF), Contender(FixedLengths(fixed, LENGTHS, pad).logits, read, stored, 1)


def ours(place: str, threads: int, lengths: Sequence[int] = ()) -> Contender:
    """An artifact on OpenVINO, at the speed behind an @ or its own; its size is that of the packed folder."""
    where, at, speed = place.partition("@")
    folder = Path(where)
    engine = load_engine("openvino", folder, threads, float(speed) if at else None, lengths)
    return Contender(engine.logits, Reader(folder), size(folder).weight_bytes, 1 if lengths else BATCH)


def predictions(contender: Contender, texts: Sequence[Any]) -> list[int]:
    """The number of each text's label, answered in batches of like length."""
    order = sorted(range(len(texts)), key=lambda row: len(str(texts[row])))
    found = np.zeros(len(texts), np.int64)
    for at in range(0, len(order), contender.batch):
        rows = order[at : at + contender.batch]
        found[rows] = contender.answer([texts[row] for row in rows]).argmax(-1)
    return [int(label) for label in found]


def one_by_one(contender: Contender, blocks: Sequence[Sequence[Any]]) -> Callable[[], None]:
    """Each call answers the next block, a text at a time."""
    turn = cycle(blocks)

    def answer() -> None:
        for text in next(turn):
            contender.answer([text])

    return answer


def timed(contenders: Mapping[str, Contender], texts: Sequence[Any], rounds: int) -> dict[str, Any]:
    """Milliseconds a text by turns, at batch 1 and 32, and how many times faster than two of them each is.

    As in ``bertpress bench``, a turn begins with a text that is not timed: the one before has filled the caches.
    """
    blocks, batch = [texts[at : at + BLOCK] for at in range(0, TEXTS, BLOCK)], list(texts[:BATCH])
    for contender in contenders.values():  # engines make a kernel when they first meet a length
        one_by_one(contender, [texts[:TEXTS]])()
    kinds = {
        1: (BLOCK, {name: one_by_one(each, blocks) for name, each in contenders.items()}),
        BATCH: (BATCH, {name: partial(each.answer, batch) for name, each in contenders.items()}),
    }
    warm = {name: partial(each.answer, texts[:1]) for name, each in contenders.items()}
    found: dict[str, Any] = {name: {} for name in contenders}
    for rows, (many, runs) in kinds.items():
        turns = {name: [each / many for each in taken] for name, taken in interleaved(runs, rounds, warm).items()}
        for name, milliseconds in turns.items():
            found[name][f"batch_{rows}"] = {
                "ms_a_text": Latency.of(milliseconds).model_dump(),
                "faster_than_eager": paired_ratio(turns[EAGER], milliseconds).model_dump(),
                "faster_than_nncf": paired_ratio(turns[NNCF], milliseconds).model_dump(),
            }
    return found


def compare(task: str, artifacts: Mapping[str, str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All contenders on one task."""
    folder, what = teacher_of(task, options.teachers, options.model), tasks.resolve(task)
    rows = tasks.load(what, "train", options.data)
    what = tasks.with_labels(what, rows)
    training = texts_of(what, rows.limit(CALIBRATION, 0))
    rows = tasks.load(what, "validation", options.data).limit(options.validation_limit)
    texts, truth = texts_of(what, rows), tasks.references(what, rows)
    with tempfile.TemporaryDirectory() as scratch:
        contenders = dict(theirs(folder, training, options.threads, Path(scratch)))
        mine = {name: ours(place, options.threads) for name, place in artifacts.items()}
        fixed = [name for name in artifacts if options.fixed is None or f"{task}/{name}" in options.fixed]
        mine |= {FIXED.format(name): ours(artifacts[name], options.threads, LENGTHS) for name in fixed}
        contenders |= mine
        found = {name: predictions(each, texts) for name, each in contenders.items()}
        times = timed(contenders, texts, options.rounds)
    whole = contenders[EAGER].bytes
    return [
        {
            "task": task, "name": name, "ours": name in mine, "validation_texts": len(texts),
            "accuracy": 100 * float(np.mean(np.equal(found[name], truth))),
            "drop": tasks.drop(what, found[EAGER], found[name], truth).model_dump(),
            "bytes": each.bytes, "percent_of_teacher": 100 * each.bytes / whole, **times[name],
        }
        for name, each in contenders.items()
    ]  # fmt: skip


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """One line a contender."""
    head = ["task", "what", "texts", "accuracy", "drop [95 %]", "MB", "% of the teacher's"]
    head += ["ms, batch 1", "times eager", "times NNCF", "ms, batch 32", "times eager", "times NNCF"]
    lines = []
    for entry in entries:
        drop = entry["drop"]
        cells = [entry["task"], entry["name"], str(entry["validation_texts"]), f"{entry['accuracy']:.1f}"]
        cells.append(f"{drop['value']:+.1f} [{drop['low']:.1f}, {drop['high']:.1f}]")
        cells += [f"{entry['bytes'] / 1e6:.1f}", f"{entry['percent_of_teacher']:.1f}"]
        for batch in ("batch_1", f"batch_{BATCH}"):
            cells.append(f"{entry[batch]['ms_a_text']['median']:.2f}")
            cells += [f"{entry[batch][ratio]['value']:.1f}" for ratio in ("faster_than_eager", "faster_than_nncf")]
        lines.append(cells)
    return markdown(head, lines)


def front(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of ours, the fastest at batch 1 and the smallest within each permitted loss."""
    found = []
    for task in TASKS:
        for permitted in DROPS:
            fitting = [entry for entry in entries if entry["task"] == task and entry["ours"]]
            fitting = [entry for entry in fitting if entry["drop"]["value"] <= permitted]
            if fitting:
                fastest = max(fitting, key=lambda entry: entry["batch_1"]["faster_than_eager"]["value"])
                smallest = min(fitting, key=lambda entry: entry["bytes"])
                found.append(
                    {
                        "task": task,
                        "permitted_drop": permitted,
                        "fastest": fastest["name"],
                        "smallest": smallest["name"],
                    }
                )
    return found


def front_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """One line a permitted loss."""
    by_name = {(entry["task"], entry["name"]): entry for entry in entries}
    head = ["task", "points that may be lost", "fastest", "times eager", "times NNCF", "smallest", "% of the teacher's"]
    lines = []
    for best in front(entries):
        fastest, smallest = (by_name[best["task"], best[which]] for which in ("fastest", "smallest"))
        ratios = [fastest["batch_1"][ratio]["value"] for ratio in ("faster_than_eager", "faster_than_nncf")]
        cells = [best["task"], f"{best['permitted_drop']:g}", best["fastest"], *(f"{ratio:.1f}" for ratio in ratios)]
        lines.append([*cells, best["smallest"], f"{smallest['percent_of_teacher']:.1f}"])
    return markdown(head, lines)


def main() -> int:
    """Compare; tasks of earlier commands stay in the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", metavar="TASK/NAME=FOLDER[@SPEED]")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teachers", type=Path, default=CACHE / "teachers")
    parser.add_argument("--model", default="mpnet-base", help="that the teachers were made from")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--fixed", nargs="*", metavar="TASK/NAME", help="in graphs for some lengths, too; default: all")
    parser.add_argument("--validation-limit", type=int, help="texts, chosen at random, that accuracy is measured on")
    parser.add_argument("--results", type=Path, default=Path("results/headline.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    wanted: dict[str, dict[str, str]] = {}
    for given in options.artifacts:
        where, found, folder = given.partition("=")
        task, slash, name = where.partition("/")
        if not (found and slash and task in TASKS):
            parser.error(
                f"{given}: must be TASK/NAME=FOLDER or TASK/NAME=FOLDER@SPEED with a task of {', '.join(TASKS)}"
            )
        wanted.setdefault(task, {})[name] = folder
    known = {f"{task}/{name}" for task, artifacts in wanted.items() for name in artifacts}
    if unknown := sorted(set(options.fixed or ()) - known):
        parser.error(f"--fixed {unknown[0]}: must be one of {', '.join(sorted(known))}")
    entries = json.loads(options.results.read_text(encoding="utf-8"))["entries"] if options.results.is_file() else []
    for task, artifacts in wanted.items():
        entries = [entry for entry in entries if entry["task"] != task] + compare(task, artifacts, options)
        content = {"model": options.model, "entries": entries, "front": front(entries)}
        save_timings(options.results, content, options.threads)
        shown = f"{table(entries)}\n{front_table(entries)}"
        options.results.with_suffix(".md").write_text(shown, encoding="utf-8")
    print(shown, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Hostile input: recipes, studies and their results, changes, task data, weight files, manifests, tokenizers, texts.

    python benchmarks/fuzz.py [--inputs 100000] [--only recipe weights]

Each input is a sound file that Hypothesis has damaged: values of its tree replaced by nasty ones, or bytes of it
changed.  It passes if bertpress reads it or refuses it in one line (a ``BertpressError``).  It fails with any other
exception, after ten seconds, and whenever something is written outside the folder, a program is started, a connection
is made or a pickle looks for a class: an audit hook sees these.

Inputs come in chunks, each a function of its number, so that a run goes on where it was stopped.  Figures and the
inputs that failed go into results/reliability.json under "fuzz".
"""

from __future__ import annotations

import argparse
import copy
import gzip
import hashlib
import json
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from reliability import recorded, save, told
from tiny_world import fast_tokenizer, rows_of, write_model

from bertpress import artifact, tasks
from bertpress.artifact import packing
from bertpress.artifact.codecs import Stored, on_grid
from bertpress.artifact.codecs.codebook import by_number
from bertpress.artifact.codecs.float_k import FloatK, in_float
from bertpress.artifact.codecs.product import by_centroids, lookup
from bertpress.artifact.codecs.sign import of_signs
from bertpress.artifact.header import KEY
from bertpress.artifact.manifest import NAME, records
from bertpress.encoder.grids import quantize, symmetric_grid
from bertpress.encoder.imports import load_pretrained
from bertpress.errors import BertpressError
from bertpress.recipe import Recipe, shipped
from bertpress.report import run_page, study_page
from bertpress.study import outputs
from bertpress.study.jobs import run_jobs, teacher_jobs
from bertpress.study.known import recall
from bertpress.study.plan import Plan
from bertpress.tasks import Task
from bertpress.training.checkpoint import read, write_atomically

SECONDS = 10
CHUNK = 500
MEMORY_BYTES = 3 * 2**30  # beyond what the process has when it begins
TASK = tasks.resolve("text-classification", text_columns=("text",), label_column="label")
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class")
MOVES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")
NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 10**12, 10**30, -(10**30), 1e308, 1e-320, float("nan"), float("inf"), "", " ", "\0",
    "x" * 5000, "<script>alert(1)</script>", "../../outside", "/etc/passwd", "..", "~", "\ud800", "\u202e", "os.system",
    "__import__('os').system('true')", "http://localhost/x", "2020-99-99", "0x", "1e999", "- [", "&a [*a]", "!!python",
    [], {}, [[]], {"": None}, [0] * 300, {"__class__": "os"}, [None], ["a", 1], {"a": {"b": {}}},
)  # fmt: skip

Run = Callable[[bytes], object]


class Watch:
    """What an input may not do, counted by an audit hook while :attr:`on`."""

    def __init__(self, inside: Path) -> None:
        self.on, self.seen, self.inside = False, list[str](), str(inside)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event.startswith(FORBIDDEN):
            self.seen.append(event)
        elif (event == "open" and _writes(args)) or event in MOVES:
            place = os.path.realpath(os.fspath(args[0])) if isinstance(args[0], str | bytes | os.PathLike) else ""
            if place and not str(place).startswith((self.inside, "/dev/", "/proc/")):
                self.seen.append(f"{event} {place}")


def _writes(args: tuple[Any, ...]) -> bool:
    return bool(isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a tree of mappings and lists."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def broken_tree(draw: Any, tree: Any) -> Any:
    """A tree with one to three values replaced, removed or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from([path for path in places(tree) if path]))
        node = tree
        for step in above:
            node = node[step]
        act = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add")))
        value = copy.deepcopy(draw(st.sampled_from(NASTY)))
        if act == "replace":
            node[last] = value
        elif act == "remove" and len(node) > 1:
            del node[last]
        elif isinstance(node, dict):
            node[draw(st.sampled_from(("extra", "", "use", "..", "auto_map")))] = value
        else:
            node.append(value)
    return tree


@st.composite
def broken_bytes(draw: Any, content: bytes, start: int = 0) -> bytes:
    """The same bytes from ``start`` on cut short, or with some changed, doubled or put in."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(min(start, len(data)), len(data)))
        act = draw(st.sampled_from(("cut", "set", "set", "set", "put", "double")))
        if act == "cut":
            del data[at:]
        elif act == "set":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif act == "put":
            data[at:at] = draw(
                st.sampled_from((b"\0", b"\xff\xfe", b'"', b"[" * 20000, b"{", b"&a ", b"*a ", b"9" * 5000))
            )
        else:
            data[at:at] = data[at : at + 40]
    return bytes(data)


def as_json(tree: Any) -> bytes:
    """JSON, surrogates and NaN included."""
    return json.dumps(tree).encode()


def as_yaml(tree: Any) -> bytes:
    """YAML of plain data."""
    return yaml.safe_dump(tree, allow_unicode=False).encode("utf-8", "replace")


def trees_and_bytes(tree: Any, dump: Callable[[Any], bytes] = as_json) -> st.SearchStrategy[bytes]:
    """Damaged trees as files, and damaged files."""
    return st.one_of(broken_tree(tree).map(dump), broken_tree(tree).map(dump), broken_bytes(dump(tree)))


class Targets:
    """What is fed, each a strategy of files and what reads one of them, in a folder of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = write_model(root / "model")
        task = TASK.replace(labels=("bad", "good"), max_length=64)
        self.task, self.tokenizer = task, fast_tokenizer()
        loaded = load_pretrained(self.model, task.head()).model
        for name, weight in loaded.unique_weights():
            if weight.ndim == 2:
                grid = symmetric_grid(weight.detach(), 4, (1, 0))
                weight.data = quantize(weight.detach(), grid)
                loaded.storage[name] = on_grid(grid)
        self.artifact = artifact.save(loaded, self.tokenizer, task, root / "artifact", seed=0).path

    def all(self) -> dict[str, tuple[st.SearchStrategy[bytes], Run]]:
        """By name."""
        recipes = [yaml.safe_load(Recipe.load(name).to_yaml()) for name in shipped()]
        study = {
            "name": "s", "models": [{"name": "m", "path": str(self.model)}], "tasks": [{"name": "sst2"}],
            "rows": ["quick", {"recipe": "gobo", "set": {"stages.0.repeat": 1}}], "seeds": [0, 1],
            "limits": {"minutes": 1, "memory_gib": 1}, "timing": {"engines": ["torch"]},
        }  # fmt: skip
        change = "stages.0.train.epochs=1"
        rows = [{**row, "extra": [1, {"a": None}]} for row in rows_of("text-classification", 8, 0)]
        tagged = rows_of("token-classification", 6, 0)
        answered = rows_of("question-answering", 6, 0)
        results = json.loads((Path(__file__).parents[1] / "results/demo.json").read_text(encoding="utf-8"))
        for candidate in (results.get("baseline", {}), results.get("artifact", {})):
            candidate.pop("latency_ms", None)
        weights = self._weights()
        return {
            "recipe": (st.sampled_from(recipes).flatmap(partial(trees_and_bytes, dump=as_yaml)), self.read_recipe),
            "study": (trees_and_bytes(study, as_yaml), self.read_study),
            "change": (st.one_of(broken_bytes(change.encode()), st.text().map(lambda t: t.encode("utf-8", "replace"))),
                       self.read_change),
            "jsonl": (self._lines(rows), partial(self.read_data, "jsonl", self.task)),
            "tags": (self._lines(tagged), partial(self.read_data, "jsonl", tasks.resolve("token-classification"))),
            "answers": (self._lines(answered), partial(self.read_data, "jsonl", tasks.resolve("question-answering"))),
            "csv": (broken_bytes(_csv(rows)), partial(self.read_data, "csv", self.task)),
            "gzip": (broken_bytes(gzip.compress(_csv(rows))), partial(self.read_data, "csv.gz", self.task)),
            "parquet": (broken_bytes(_parquet(rows)), partial(self.read_data, "parquet", self.task)),
            "header": (_headers(weights), self.read_weights),
            "payload": (broken_bytes(weights, 8 + struct.unpack("<Q", weights[:8])[0]), self.read_weights),
            "weights": (broken_bytes((self.artifact / "model.safetensors").read_bytes()),
                        partial(self.read_artifact, "model.safetensors")),
            "manifest": (self._file(self.artifact / "bertpress.json"), partial(self.read_artifact, "bertpress.json")),
            "config": (self._file(self.artifact / "config.json"), partial(self.read_artifact, "config.json")),
            "tokenizer": (self._file(self.artifact / "tokenizer.json"), partial(self.read_artifact, "tokenizer.json")),
            "tokenizer_config": (self._file(self.artifact / "tokenizer_config.json"),
                                 partial(self.read_artifact, "tokenizer_config.json")),
            "model": (self._file(self.model / "config.json"), self.read_model),
            "checkpoint": (broken_bytes(self._checkpoint()), self.read_checkpoint),
            "results": (broken_tree(results).map(as_json), self.read_results),
            "known": (trees_and_bytes(self._known()), self.read_known),
            "texts": (st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass")), self.read_text),
        }  # fmt: skip

    def _file(self, path: Path) -> st.SearchStrategy[bytes]:
        return trees_and_bytes(json.loads(path.read_text(encoding="utf-8")))

    def _lines(self, rows: list[dict[str, Any]]) -> st.SearchStrategy[bytes]:
        whole = b"\n".join(map(as_json, rows))
        return st.one_of(broken_tree(rows).map(lambda found: b"\n".join(map(as_json, found))), broken_bytes(whole))

    def _weights(self) -> bytes:
        """A file with every codec in it."""
        draw = torch.Generator().manual_seed(0)
        grid = symmetric_grid(torch.randn(6, 8, generator=draw), 3, (1, 0))
        table = torch.randn(8, generator=draw)
        centroids = torch.randn(4, 2, generator=draw)
        signs = torch.randint(0, 2, (6, 8), generator=draw) * 2.0 - 1
        floats = FloatK(bits=5, exponent_bits=3).magnitudes(torch.tensor([-4], dtype=torch.int8))
        pick = partial(torch.randint, generator=draw)
        thin = torch.randn(16, 16, generator=draw) * (torch.rand(16, 16, generator=draw) < 0.1)
        state = {
            "grid": quantize(torch.randn(6, 8, generator=draw), grid), "book": table[pick(0, 8, (6, 8))],
            "signs": signs * 0.5, "floats": floats[pick(0, len(floats), (6, 8))], "thin": thin,
            "product": lookup(centroids, pick(0, 4, (24,)).to(torch.uint8), (6, 8)), "plain": torch.ones(3),
        }  # fmt: skip
        storage = {
            "grid": on_grid(grid), "book": by_number(table), "signs": of_signs(torch.full((1, 1, 1), 0.5), (0, 0)),
            "floats": in_float(5, 3, -4), "product": by_centroids(centroids),
        }  # fmt: skip
        place = self.root / "all.safetensors"
        packing.write(place, state, {name: Stored(each.codecs, each.parts) for name, each in storage.items()})
        return place.read_bytes()

    def _checkpoint(self) -> bytes:
        place = self.root / "sound.pt"
        write_atomically(place, lambda file: torch.save({"format": 1, "step": 3, "model": {"w": torch.ones(4)}}, file))
        return place.read_bytes()

    def _put(self, name: str, content: bytes) -> Path:
        place = self.root / "in" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return place

    def read_recipe(self, content: bytes) -> None:
        """As ``compress --recipe FILE`` does, and once around."""
        recipe = Recipe.load(self._put("recipe.yaml", content))
        recipe.check()
        assert Recipe.parse(recipe.to_dict()) == recipe
        recipe.to_yaml()

    def read_study(self, content: bytes) -> None:
        """As ``study FILE`` does before the first run; every run has a folder below the study's."""
        plan = Plan.load(self._put("study.yaml", content))
        plan.check()
        out = self.root / "out"
        for place in {**teacher_jobs(plan, out), **run_jobs(plan, out)}:
            assert place.resolve().is_relative_to(out.resolve() / ("teachers" if "teachers" in place.parts else "runs"))

    def _plan(self) -> Plan:
        return Plan.parse({"name": "s", "models": [str(self.model)], "tasks": ["sst2"], "rows": ["gobo"]})

    def _known(self) -> dict[str, Any]:
        """What another study found of the only run of the plan, the smallest that it can be."""
        metric = {"name": "accuracy", "value": 90.0, "low": 88.0, "high": 92.0}
        layer = {"heads": [0], "ffn": [8], "mixer": "attention"}
        entry = {
            "label": "gobo", "model": "model", "task": "sst2", "seed": 0, "start": "teacher",
            "recipe": self._plan().rows[0].resolve().to_dict(), "folder": "runs/a",
            "baseline": {"metric": metric, "weight_bytes": 100, "hidden_size": 8, "layers": [layer]},
            "artifact": {
                "metric": metric, "drop": {"value": 1.0, "low": 0.0, "high": 2.0}, "weight_bytes": 50, "macs": 5,
                "layers": [layer], "speedup_samples": [1.0, 2.0], "latency_ms": {"median": 1.0},
                "engines": {"torch": {"weight_bytes": 50, "weight_bytes_without_embeddings": 20}},
            },
        }  # fmt: skip
        described = [task.model_dump(mode="json") for task in self._plan().tasks]
        times = {"latency_ms": {"samples": [1.0, 2.0]}}
        profile = {"model": "model", "device": "cpu", **times, "components": {"ffn": times, "attention": times}}
        return {
            "plan": {"tasks": described}, "environment": {"cpu": {"name": "a"}}, "entries": [entry],
            "profiles": {"model": [profile, {**profile, "device": "cuda"}]}, "vocabularies": {"sst2": {"tokens": 10}},
        }  # fmt: skip

    def read_known(self, content: bytes) -> None:
        """As ``study --known FILE`` does where it knows all runs: tables, claims, and the pages."""
        outputs.environment = lambda **_: {"cpu": {"name": "this"}}  # else it starts git
        plan, out = self._plan(), self.root / "out"
        runs = run_jobs(plan, out)
        found = outputs.gathered(plan, {}, runs, recall([self._put("study.json", content)], runs), {}, "")
        for page in (study_page(found), *map(run_page, found["entries"])):
            assert "<script>alert" not in page

    def read_change(self, content: bytes) -> None:
        """As ``--set`` does."""
        Recipe.load("quick", overrides=[content.decode("utf-8", "replace")])

    def read_data(self, ending: str, task: Task, content: bytes) -> None:
        """As every command with ``--data`` does, up to the batches."""
        place = self._put(f"{ending}/train.{ending}", content)
        rows = tasks.load(task, "train", place.parent)
        known = tasks.with_labels(task if task.labels is None else task.replace(labels=None), rows)
        encoded = tasks.encode(known, rows, self.tokenizer, training=True)
        tasks.Collate(0)([encoded[i] for i in range(len(encoded))])
        tasks.references(known, rows)

    def read_weights(self, content: bytes) -> None:
        """A weight file alone."""
        packing.read(self._put("all.safetensors", content))

    def read_artifact(self, name: str, content: bytes) -> None:
        """A whole artifact one of whose files is hostile, with hashes that fit, as its author would have made them."""
        place = self.root / "in" / "artifact"
        if not place.is_dir():
            shutil.copytree(self.artifact, place)
        try:
            (place / name).write_bytes(content)
            _sign(place)
            made = artifact.load(place)
            list(made.predict(["the film was good", ""], threads=1))
        finally:
            for each in (name, NAME):
                shutil.copy(self.artifact / each, place / each)

    def read_model(self, content: bytes) -> None:
        """A transformers folder with a hostile configuration."""
        place = self.root / "in" / "model"
        if not place.is_dir():
            shutil.copytree(self.model, place)
        (place / "config.json").write_bytes(content)
        load_pretrained(place, self.task.head())

    def read_checkpoint(self, content: bytes) -> None:
        """A checkpoint of training."""
        read(self._put("checkpoint.pt", content))

    def read_results(self, content: bytes) -> None:
        """The page of a run; nothing of it becomes a tag."""
        page = run_page(json.loads(content))
        assert "<script>alert" not in page

    def read_text(self, content: bytes) -> None:
        """Any text at all."""
        if not hasattr(self, "reader"):
            self.reader = artifact.load(self.artifact)
        text = content.decode("utf-8", "surrogatepass")
        (answer,) = self.reader.predict([text], threads=1)
        json.dumps(answer, allow_nan=False)


def _sign(folder: Path) -> None:
    """Make the hashes of a manifest, where it is one at all, those of the files and of itself."""
    try:
        fields = json.loads((folder / NAME).read_text(encoding="utf-8"))
        fields.pop("sha256", None)
        fields["files"] = {
            **fields["files"],
            **{key: each.model_dump() for key, each in records(folder).items() if key in fields["files"]},
        }
        canonical = partial(json.dumps, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        digest = hashlib.sha256(canonical(fields).encode()).hexdigest()
        (folder / NAME).write_text(canonical({**fields, "sha256": digest}) + "\n", encoding="utf-8")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return


def _csv(rows: list[dict[str, Any]]) -> bytes:
    return ("text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in rows)).encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: [row[name] for row in rows] for name in ("text", "label")}), sink)
    return bytes(sink.getvalue().to_pybytes())


def _headers(weights: bytes) -> st.SearchStrategy[bytes]:
    """The same tensors under headers and storage plans that lie."""
    (length,) = struct.unpack("<Q", weights[:8])
    header, data = json.loads(weights[8 : 8 + length]), weights[8 + length :]
    plan = json.loads(header["__metadata__"][KEY])

    def with_plan(found: Any) -> Any:
        return {**header, "__metadata__": {KEY: json.dumps(found)}}

    def whole(found: Any) -> bytes:
        text = as_json(found)
        return struct.pack("<Q", len(text)) + text + data

    return st.one_of(broken_tree(plan).map(with_plan).map(whole), broken_tree(header).map(whole))


@contextmanager
def bounded(watch: Watch) -> Iterator[None]:
    """A block that the audit hook watches and a clock ends."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    watch.on, watch.seen = True, []
    try:
        yield
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(content: bytes, run: Run, watch: Watch, found: dict[str, Any]) -> None:
    """Feed one input, and count what became of it."""
    found["inputs"] += 1
    said = ""
    with bounded(watch):
        try:
            run(content)
            found["read"] += 1
        except BertpressError as error:
            found["refused"] += 1
            said = "a message of several lines" if "\n" in str(error) else ""
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            said = f"{type(error).__name__}: {str(error)[:300]}"
    said = said or ", ".join(watch.seen[:3])
    if said:
        found["failures"].append({"said": said, "input": repr(content[:2000])})


def limit_memory() -> None:
    """No more than so much beyond what the process has now."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, limit))


def chunk(number: int, strategy: st.SearchStrategy[bytes], run: Run, watch: Watch) -> dict[str, Any]:
    """Feed one chunk of inputs; what it found."""
    found: dict[str, Any] = {"inputs": 0, "read": 0, "refused": 0, "failures": []}

    @seed(number)
    @settings(max_examples=CHUNK, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def feed(content: bytes) -> None:
        judge(content, run, watch, found)

    feed()
    return found


def main() -> int:
    """Feed until there have been enough inputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--only", nargs="*", default=[], help="names of targets")
    parser.add_argument("--fresh", action="store_true", help="forget what was found before")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {} if options.fresh else recorded("fuzz").get("targets", {})
    with tempfile.TemporaryDirectory(prefix="bertpress-fuzz-") as scratch:
        root = Path(scratch).resolve()
        targets = Targets(root).all()
        watch = Watch(root)
        limit_memory()
        chosen = options.only or list(targets)
        each = -(-options.inputs // len(chosen))
        for name in chosen:
            strategy, run = targets[name]
            state = found.setdefault(name, {"chunks": 0, "inputs": 0, "read": 0, "refused": 0, "failures": []})
            while state["inputs"] < each:
                began = time.monotonic()
                more = chunk(state["chunks"], strategy, run, watch)
                state["chunks"] += 1
                for key in ("inputs", "read", "refused", "failures"):
                    state[key] += more[key]
                pace = more["inputs"] / (time.monotonic() - began)
                told(f"{name}: {state['inputs']} inputs, {len(state['failures'])} failures ({pace:.0f} a second)")
                save("fuzz", summary(found))
    done = summary(found)
    print(json.dumps({key: done[key] for key in ("inputs", "failures")}))
    return 1 if done["failures"] else 0


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """Totals, and each target."""
    return {
        "inputs": sum(each["inputs"] for each in found.values()),
        "failures": sum(len(each["failures"]) for each in found.values()),
        "targets": dict(found),
    }


if __name__ == "__main__":
    sys.exit(main())

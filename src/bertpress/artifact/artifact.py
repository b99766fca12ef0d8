"""The artifact: a folder that stands alone, and what can be done with it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertpress.artifact import card, hub
from bertpress.artifact import manifest as manifests
from bertpress.artifact.codecs.bitmap import Bitmap
from bertpress.artifact.exits import calibrated, speed_of
from bertpress.artifact.exporting import RUNTIMES, export
from bertpress.artifact.folder import alone
from bertpress.artifact.load import Checked, check, load_model, read_tokenizer_for, task_of
from bertpress.artifact.manifest import CARD, WEIGHTS, Manifest
from bertpress.artifact.predict import Predictor, logits_of
from bertpress.artifact.save import finite, parent_of, save, update, without_samples
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.subnetworks import cut, subnetwork
from bertpress.errors import ArtifactError, DataError
from bertpress.tasks import Rows, Task, UserMetric, predictions, references, score
from bertpress.tasks import load as load_rows

if TYPE_CHECKING:
    from bertpress.artifact.passages import Reader
    from bertpress.engines import Speed
    from bertpress.engines.states import Store
    from bertpress.tasks import Score


def load(folder: str | Path, *, verify: bool = True) -> "Artifact":
    """Open an artifact; its weights are decoded when they are first needed.

    Args:
        folder: of the artifact; or a text ``user/name``, which the hub is asked for where there is no such folder.
        verify: compare every file with its hash in the manifest.

    Raises:
        ArtifactError: it is no artifact, or a file is missing, cut, changed, or asks for what it does not hold.
        MachineError: the decoded weights would not fit into memory.
    """
    path = Path(folder)
    if isinstance(folder, str) and hub.NAME.fullmatch(folder) and not path.exists():
        path = hub.pull(folder)
    return Artifact(check(path, verify=verify))


class Artifact:
    """A compressed model on disk.  Make one with :func:`bertpress.load` or :func:`bertpress.artifact.save`.

    Attributes:
        path: the folder.
        manifest: the contents of its ``bertpress.json``.
    """

    def __init__(self, checked: Checked) -> None:
        self._checked = checked
        self.path = checked.folder
        self.manifest: Manifest = checked.manifest
        self._predictors: dict[tuple[Any, ...], Predictor] = {}

    def __repr__(self) -> str:
        return f"Artifact({str(self.path)!r})"

    @property
    def blueprint(self) -> Blueprint:
        """The shape of the encoder and its head."""
        return self._checked.blueprint

    @cached_property
    def model(self) -> BertpressPreTrainedModel:
        """The decoded model, in evaluation mode; a quantized one simulates its integers in float32."""
        return load_model(self._checked)

    @property
    def exports(self) -> tuple[str, ...]:
        """The runtimes whose files lie in the folder, whole and with their hashes: openvino, onnx."""
        made = (name for name in RUNTIMES if any(f.startswith(f"{name}/") for f in self.manifest.files))
        return tuple(name for name in made if (self.path / name).is_dir())

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer lies in the folder."""
        return "tokenizer_config.json" in self.manifest.files

    @cached_property
    def tokenizer(self) -> Any:
        """The transformers tokenizer that lies in the folder."""
        return read_tokenizer_for(self.path, self.blueprint)

    @cached_property
    def task(self) -> Task | None:
        """What the model was trained for, with its labels; None for an encoder without a task."""
        return task_of(self.path, self.manifest, self.blueprint)

    def predict(
        self,
        texts: Iterable[Any],
        *,
        engine: str = "torch",
        batch_size: int = 32,
        threads: int | None = None,
        speed: "Speed | None" = None,
        max_drop: float | None = None,
        lengths: Sequence[int] = (),
    ) -> Iterator[dict[str, Any] | list[dict[str, Any]]]:
        """Answer texts as they come, in order; memory does not grow with their number.

        Args:
            texts: strings; pairs for tasks of two texts (question, then context); strings or lists of words to tag.
            engine: torch, onnxruntime or openvino; the latter two need the export to be in the folder.
            batch_size: texts that are read before the first is answered.
            threads: of the engine; all cores when None.
            speed: of early exits, 0 (all layers) to 1 (the first exit), or a mean time, ``"1.5ms"``; None: its own.
            max_drop: instead of the speed, the points that it may cost by the stored curve.
            lengths: in tokens, to which single texts are padded; see :mod:`bertpress.engines.lengths`.

        Yields:
            classification ``{"label", "score", "scores"}`` (several labels: ``{"labels", "scores"}``); regression
            ``{"score"}``; tagging a list of ``{"word", "label", "start", "end"}``; question answering ``{"answer",
            "score", "start", "end"}``; sentence embedding ``{"embedding"}``, or ``{"score"}``, the cosine, for a pair.

        Raises:
            DataError: an entry is not of the task's form; the message has its number.
            EngineError: the engine is not installed or cannot run this artifact.
        """
        return self._predictor(engine, threads, speed, max_drop, lengths).stream(texts, batch_size)

    def reader(
        self,
        passages: Mapping[str, str],
        states: str | Path,
        *,
        engine: str = "torch",
        threads: int | None = None,
        store: "Store" = "float32",
    ) -> "Reader":
        """Make ready for questions about passages, whose lower states are kept in a folder.

        Args:
            passages: texts by name.
            states: the folder.
            engine: as for :meth:`predict`.
            threads: as for :meth:`predict`.
            store: how states are kept: float32, float16, or int8 with a scale for each token.

        Raises:
            ArtifactError: the model's lower layers do not read the two texts apart.
            EngineError: the engine is not installed or cannot run this artifact.
        """
        from bertpress.artifact.passages import Reader

        weights = self.manifest.files[WEIGHTS].sha256
        return Reader(
            self.path, self.blueprint, weights, self.task, self.tokenizer, passages, Path(states),
            engine=engine, threads=threads, store=store,
        )  # fmt: skip

    def evaluate(
        self,
        data: Rows | str | Path | None = None,
        *,
        task: Task | None = None,
        split: str = "validation",
        engine: str = "torch",
        batch_size: int = 32,
        threads: int | None = None,
        limit: int | None = None,
        seed: int = 0,
        metric: UserMetric | None = None,
        speed: "Speed | None" = None,
        max_drop: float | None = None,
    ) -> "dict[str, Score]":
        """Score the artifact on labelled rows; the first entry is the primary metric.

        Args:
            data: rows, or a folder of splits; None asks the hub for the task's data set.
            task: in place of the artifact's own.
            split: of ``data``.
            engine: as for :meth:`predict`.
            batch_size: examples in a batch.
            threads: of the engine; all cores when None.
            limit: score so many rows, drawn with ``seed``, that of the bootstrap.
            seed: of both.
            metric: the user's own, a function of predictions and references.
            speed: as for :meth:`predict`, like ``max_drop``.
            max_drop: instead of the speed.

        Raises:
            DataError: the artifact has no task and none is given, or the data cannot be used.
        """
        chosen = task or self._own_task()
        if isinstance(data, Rows):
            rows = data.limit(limit, seed)
        else:
            rows = load_rows(chosen, split, None if data is None else Path(data), limit)
        runner = self._predictor(engine, threads, speed, max_drop).engine
        encoded, logits = logits_of(chosen, rows, self.tokenizer, runner, batch_size)
        return score(chosen, predictions(chosen, encoded, logits), references(chosen, rows), seed=seed, metric=metric)

    def export(self, to: str, folder: str | Path | None = None, **options: Any) -> Path:
        """Export for a runtime.

        Args:
            to: ``openvino``, ``onnx`` or ``transformers``.
            folder: where; None puts openvino and onnx into the artifact itself, under ``openvino/`` or ``onnx/``, and
                enters their hashes in the manifest.
            **options: of the exporter.

        Raises:
            ArtifactError: the target is unknown, or ``transformers`` is asked for without a folder.
        """
        self._predictors.clear()
        path, self.manifest = export(self, to, None if folder is None else Path(folder), **options)
        return path

    def subnetwork(self, folder: str | Path, *, width: float = 1.0, depth: float = 1.0) -> "Artifact":
        """Cut one sub-network out and write it as an artifact of its own.

        Args:
            folder: where.
            width: share of the heads and neurons of each layer; one that the model was trained to run at.
            depth: share of the layers; likewise.

        Raises:
            ArtifactError: the model has no sub-networks or not this one, its weights are quantized, the place is taken.
        """
        elastic = self.blueprint.elastic
        if elastic is None:
            raise ArtifactError(f"{self.path}: has no sub-networks; prune/dynabert makes models that do")
        for name, share, known in (("width", width, elastic.widths), ("depth", depth, elastic.depths)):
            if share not in known:
                raise ArtifactError(
                    f"{self.path}: {name}={share:g} must be one of {', '.join(f'{k:g}' for k in known)}"
                )
        if any(not isinstance(codec, Bitmap) for stored in self.model.storage.values() for codec in stored.codecs):
            raise ArtifactError(f"{self.path}: its weights are quantized; cut the sub-network first and quantize that")
        return save(
            cut(self.model, subnetwork(self.blueprint, width=width, depth=depth)),
            self.tokenizer if self.has_tokenizer else None,
            self.task,
            folder,
            seed=self.manifest.seed,
            command=self.manifest.command,
            parent=parent_of(self.manifest.name, self.path),
        )

    def record(self, metrics: Mapping[str, Any]) -> None:
        """Enter measured figures (``baseline``, ``artifact``, ``environment``) into manifest and model card.

        The artifact stays valid if the process is killed on the way, and what other processes enter is kept.
        """
        with alone(self.path, waits=True):
            there = manifests.read(self.path)
            merged = there.replace(metrics={**there.metrics, **finite(without_samples(metrics))})
            self.manifest = update(self.path, merged, {CARD: card.render(merged)})

    def calibrate_exits(self, rows: Rows, *, drop: float | None = None, metric: UserMetric | None = None) -> None:
        """Measure what each speed of early exits costs and saves, and keep it with the speed that is chosen by it.

        Args:
            rows: labelled ones, not those that will be reported on.
            drop: points that the usual speed may cost; None: as the model's rule says.
            metric: the user's own.

        Raises:
            ArtifactError: the model has no early exits.
        """
        if self.blueprint.exit is None:
            raise ArtifactError(f"{self.path}: has no early exits; methods of the family exit make models that do")
        exits = calibrated(self.model, self._own_task(), rows, self.tokenizer, drop, metric)
        with alone(self.path, waits=True):
            self.manifest = update(self.path, manifests.read(self.path).replace(exits=exits), {})
        self._predictors.clear()

    def exit_speed(self, speed: "Speed | None" = None, max_drop: float | None = None) -> "Speed | None":
        """The speed of early exits that :meth:`predict` runs at with these arguments; None: the artifact's own."""
        return speed_of(self.manifest.exits, speed, max_drop, self.path)

    def verify(self) -> None:
        """Compare every file with its hash again.

        Raises:
            ArtifactError: names the file, the expected and the found hash.
        """
        manifests.verify(self.path, manifests.read(self.path))

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, message: str | None = None
    ) -> str:
        """Upload to the hub, and return the address of the commit.

        Args:
            repo_id: ``user/name``; made when it does not exist.
            private: of a new repository.
            token: of the hub; the one that ``hf auth login`` keeps when None.  It is never written anywhere.
            message: of the commit.

        Raises:
            ArtifactError: the folder was changed since it was written.
            MachineError: the hub cannot be reached or refuses.
        """
        self.verify()
        return hub.push(self.path, self.manifest, repo_id, private=private, token=token, message=message)

    def _own_task(self) -> Task:
        if self.task is None:
            raise DataError(f"{self.path}: the artifact has no task; name one")
        return self.task

    def _predictor(
        self, engine: str, threads: int | None, speed: "Speed | None", drop: float | None, lengths: Sequence[int] = ()
    ) -> Predictor:
        key = (engine, threads, self.exit_speed(speed, drop), tuple(lengths))
        if key not in self._predictors:
            self._predictors[key] = Predictor(self.path, self.task, self.tokenizer, *key)
        return self._predictors[key]

"""Where the well-known tasks live on the Hugging Face hub, and how to get a split from there."""

import contextlib
import os
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlparse

from bertpress.errors import DataError
from bertpress.tasks.rows import Rows, from_records
from bertpress.tasks.task import Task


@dataclass(frozen=True)
class HubCopy:
    """One data set on the hub: its id, configuration, revision, and columns and splits with other names."""

    path: str
    config: str | None = None
    revision: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)


_PARQUET = "refs/convert/parquet"  # the hub's own conversion: datasets no longer runs loading scripts
_GLUE = "nyu-mll/glue"
HUB: dict[str, HubCopy] = {
    "ag_news": HubCopy("fancyzhx/ag_news", splits={"validation": "test"}),
    "banking77": HubCopy("PolyAI/banking77", revision=_PARQUET, splits={"validation": "test"}),
    "cola": HubCopy(_GLUE, "cola"),
    "mnli": HubCopy(_GLUE, "mnli", splits={"validation": "validation_matched"}),
    "mrpc": HubCopy(_GLUE, "mrpc"),
    "qnli": HubCopy(_GLUE, "qnli"),
    "qqp": HubCopy(_GLUE, "qqp"),
    "rte": HubCopy(_GLUE, "rte"),
    "snips": HubCopy("benayas/snips", columns={"category": "label"}, splits={"validation": "test"}),
    "snli": HubCopy("stanfordnlp/snli"),
    "squad": HubCopy("rajpurkar/squad"),
    "sst2": HubCopy(_GLUE, "sst2"),
    "stsb": HubCopy(_GLUE, "stsb"),
    "subj": HubCopy("SetFit/subj", splits={"validation": "test"}),
    "trec": HubCopy(
        "CogComp/trec", revision=_PARQUET, columns={"coarse_label": "label"}, splits={"validation": "test"}
    ),
    "wnut17": HubCopy("leondz/wnut_17", revision=_PARQUET),
}
"""Hub copies by task name. Splits that a data set lacks are mapped to the one that is scored instead."""


def _resolvable() -> bool:
    """Whether the hub's name resolves; behind a proxy nothing is known before trying."""
    if urllib.request.getproxies():
        return True
    host = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Without a network, look only in the local cache: the client would retry for half a minute otherwise."""
    import datasets.config
    import huggingface_hub.constants

    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    if not before[0] and not _resolvable():
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before


def load_from_hub(task: Task, split: str) -> Rows:
    """One split of a well-known task through ``datasets`` (its cache answers offline).

    Rows whose label is -1, the hub's mark for "not labelled", are left out.

    Raises:
        DataError: no hub copy is known, or it could not be loaded; one line that says what to do.
    """
    copy = HUB.get(task.name)
    if copy is None:
        raise DataError(f"task {task.name}: no hub data set is known for it; give --data DIR with {split}.*")
    import datasets

    name = copy.splits.get(split, split)
    label = "/".join(filter(None, (copy.path, copy.config)))
    try:
        with _offline_if_unreachable():
            loaded = datasets.load_dataset(copy.path, copy.config, split=name, revision=copy.revision)
    except Exception as error:  # the client lets many unrelated error types through
        reason = (str(error).strip().splitlines() or [""])[0][:160]
        raise DataError(
            f"task {task.name}: split '{name}' of hub data set {label} could not be loaded "
            f"({type(error).__name__}: {reason}); give --data DIR with {split}.* instead"
        ) from None
    renamed = {
        old: new for old, new in copy.columns.items() if old in loaded.column_names and new not in loaded.column_names
    }
    rows = from_records(loaded.rename_columns(renamed), split=split, source=f"hub:{label}/{name}")
    if task.label_column in rows.columns and task.is_classification:
        labelled = [i for i, value in enumerate(rows.columns[task.label_column]) if value != -1]
        if len(labelled) < len(rows):
            rows = rows.subset(labelled)
    if not len(rows):
        raise DataError(f"{rows.source}: no labelled rows")
    return rows

"""What is learnt and how it is scored: tasks, data, encoding, batches, losses, predictions, metrics."""

from bertpress.tasks.answers import best_spans, exact_match, text_f1
from bertpress.tasks.batching import BucketSampler, Collate, examples_of, pieces_of
from bertpress.tasks.bootstrap import Drop, Score, UserMetric, drop, score
from bertpress.tasks.encoded import Encoded
from bertpress.tasks.encoding import check_texts, encode
from bertpress.tasks.entities import entities
from bertpress.tasks.files import read
from bertpress.tasks.known import KNOWN, resolve
from bertpress.tasks.labels import label_ids, whole_number
from bertpress.tasks.loading import load
from bertpress.tasks.losses import cosines, loss
from bertpress.tasks.metrics import Metric, metrics_for
from bertpress.tasks.naming import with_labels
from bertpress.tasks.predictions import describe, keep, predictions, references, row_scores
from bertpress.tasks.rows import Rows, from_records, from_texts, holdout
from bertpress.tasks.task import KINDS, METRICS, Kind, Task
from bertpress.tasks.texts import TEXT, load_texts, read_texts, texts_of, train_texts

__all__ = [
    "KINDS",
    "KNOWN",
    "METRICS",
    "TEXT",
    "BucketSampler",
    "Collate",
    "Drop",
    "Encoded",
    "Kind",
    "Metric",
    "Rows",
    "Score",
    "Task",
    "UserMetric",
    "best_spans",
    "check_texts",
    "cosines",
    "describe",
    "drop",
    "encode",
    "entities",
    "exact_match",
    "examples_of",
    "from_records",
    "from_texts",
    "holdout",
    "keep",
    "label_ids",
    "load",
    "load_texts",
    "loss",
    "metrics_for",
    "pieces_of",
    "predictions",
    "read",
    "read_texts",
    "references",
    "resolve",
    "row_scores",
    "score",
    "text_f1",
    "texts_of",
    "train_texts",
    "whole_number",
    "with_labels",
]

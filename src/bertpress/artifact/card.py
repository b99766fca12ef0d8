"""The model card, ``README.md``: a pure function of the manifest."""

import json
from collections.abc import Mapping
from typing import Any

from bertpress.artifact import hub
from bertpress.artifact.manifest import Manifest

_PIPELINES = {
    "text-classification": "text-classification",
    "text-pair-classification": "text-classification",
    "text-regression": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "sentence-similarity": "sentence-similarity",
    "masked-lm": "fill-mask",
}
_AUTO = {
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "sentence-similarity": "AutoModel",
    "masked-lm": "AutoModelForMaskedLM",
}
UNMEASURED = "not measured"


def render(manifest: Manifest) -> str:
    """Front matter for the hub, what it is, what was measured, how to load it, how it was made."""
    kind = (manifest.task or {}).get("kind")
    sections = [
        _front(manifest, kind),
        _what(manifest),
        _figures(manifest),
        _loading(manifest, kind),
        _making(manifest),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front(manifest: Manifest, kind: str | None) -> str:
    lines = ["library_name: bertpress", "tags:", "- bertpress", "- model-compression"]
    if kind in _PIPELINES:
        lines.append(f"pipeline_tag: {_PIPELINES[kind]}")
    if manifest.parent and hub.NAME.fullmatch(manifest.parent.name):
        lines.append(f"base_model: {json.dumps(manifest.parent.name)}")
    return "\n".join(["---", *lines, "---"])


def _what(manifest: Manifest) -> str:
    task = manifest.task or {}
    parent = f"`{manifest.parent.name}`" if manifest.parent else "a model"
    recipe = (manifest.recipe or {}).get("name")
    made = (
        f"{parent}, compressed with the recipe `{recipe}` of bertpress" if recipe else f"{parent}, saved by bertpress"
    )
    text = f"# {manifest.name}\n\nThis is {made}."
    if task:
        text += f" Task: `{task['name']}` ({task['kind']}), inputs of at most {task['max_length']} tokens."
    if labels := task.get("labels"):
        shown = ", ".join(f"`{label}`" for label in labels[:20])
        text += f" Labels: {shown}{f' and {len(labels) - 20} more' if len(labels) > 20 else ''}."
    return text


def _figures(manifest: Manifest) -> str:
    artifact, baseline = manifest.metrics.get("artifact") or {}, manifest.metrics.get("baseline") or {}
    if not artifact:
        return "## Measured\n\nNothing was measured."
    rows = [
        ("Metric", *(_metric(side.get("metric")) for side in (artifact, baseline))),
        ("Parameters", *(_count(side.get("parameters")) for side in (artifact, baseline))),
        ("Weights on disk", *(_bytes(side.get("weight_bytes")) for side in (artifact, baseline))),
        ("Latency, batch 1", *(_latency(side) for side in (artifact, baseline))),
    ]
    table = ["| | this model | its parent |", "| --- | --- | --- |"]
    table += [f"| {name} | {ours} | {theirs} |" for name, ours, theirs in rows]
    notes = []
    if isinstance(drop := artifact.get("drop"), Mapping):
        notes.append(f"Drop: {_interval(drop)} points (95 % paired bootstrap).")
    if isinstance(speedup := artifact.get("speedup"), int | float):
        notes.append(f"Speed-up over the parent: {speedup:.1f} times, timed in turns on one machine.")
    if cpu := ((manifest.metrics.get("environment") or {}).get("cpu") or {}).get("name"):
        notes.append(f"Machine: {cpu}.")
    return "\n".join(["## Measured", "", *table, *(["", " ".join(notes)] if notes else [])])


def _interval(score: Mapping[str, Any]) -> str:
    text = f"{score['value']:.2f}" if score.get("value") is not None else UNMEASURED
    if score.get("low") is not None and score.get("high") is not None:
        text += f" ({score['low']:.2f} to {score['high']:.2f})"
    return text


def _metric(score: Mapping[str, Any] | None) -> str:
    return f"{score.get('name', 'score')} {_interval(score)}" if score else UNMEASURED


def _count(value: int | None) -> str:
    return UNMEASURED if value is None else f"{value:,}"


def _bytes(value: int | None) -> str:
    return UNMEASURED if value is None else f"{value / 1e6:.2f} MB"


def _latency(side: Mapping[str, Any]) -> str:
    median = (side.get("latency_ms") or {}).get("median")
    if median is None:
        return UNMEASURED
    details = [side["engine"]] if side.get("engine") else []
    details += [f"{side['threads']} threads"] if side.get("threads") else []
    return f"{median:.2f} ms" + (f" ({', '.join(details)})" if details else "")


def _loading(manifest: Manifest, kind: str | None) -> str:
    auto = _AUTO.get(kind or "", "AutoModelForSequenceClassification" if kind else "AutoModel")
    exported = sorted({path.split("/")[0] for path in manifest.files if path.startswith(("openvino/", "onnx/"))})
    parts = [
        "## Load it",
        "With bertpress:\n\n```python\nimport bertpress\n\n"
        'artifact = bertpress.load(".")  # the folder where this lies, or its name on the hub\n'
        "answers = artifact.predict([...])\n```",
        "With transformers:\n\n```python\nimport bertpress  # registers the model type\n"
        f"from transformers import {auto}, AutoTokenizer\n\n"
        f'model = {auto}.from_pretrained(".")\ntokenizer = AutoTokenizer.from_pretrained(".")\n```',
        "From the command line:\n\n```\nbertpress predict . < texts.txt\n```",
    ]
    if exported:
        folders = " and ".join(f"`{folder}/`" for folder in exported)
        parts.append(f"The files under {folders} run with those runtimes alone.")
    return "\n\n".join(parts)


def _making(manifest: Manifest) -> str:
    lines = ["## How it was made", ""]
    if manifest.command:
        lines += ["```", manifest.command, "```", ""]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))
    seed = "" if manifest.seed is None else f" Seed {manifest.seed}."
    digest = (
        f" Parent's weights: SHA-256 `{manifest.parent.sha256}`." if manifest.parent and manifest.parent.sha256 else ""
    )
    lines.append(f"bertpress {manifest.bertpress}{f' with {versions}' if versions else ''}.{seed}{digest}")
    lines.append("The whole recipe, all figures and the hash of each file are in `bertpress.json`.")
    return "\n".join(lines)

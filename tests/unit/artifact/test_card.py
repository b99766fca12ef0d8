import ast
import re

import pytest
import yaml

from bertpress.artifact import card
from bertpress.artifact.manifest import FileRecord, Manifest, Parent
from bertpress.tasks import resolve

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
SIDE = {
    "parameters": 22_713_216,
    "weight_bytes": 23_100_000,
    "engine": "openvino",
    "threads": 2,
    "latency_ms": {"median": 1.234, "p90": 2.0, "samples": []},
    "metric": {"name": "accuracy", "value": 91.05, "low": 89.1, "high": 92.9},
}


def manifest(**changes):
    task = resolve("sst2", id2label=["bad", "good"]).model_dump(mode="json")
    return Manifest(
        **{
            "bertpress": "0.1.0",
            "name": "small",
            "task": task,
            "recipe": {"name": "quick"},
            "command": "bertpress compress user/big --recipe quick",
            "seed": 0,
            "versions": {"torch": "2.13.0"},
            "parent": Parent(name="user/big", sha256=ABC),
            "metrics": {
                "artifact": {**SIDE, "drop": {"value": 0.4, "low": -0.2, "high": 1.0}, "speedup": 12.34},
                "baseline": {**SIDE, "engine": "torch"},
                "environment": {"cpu": {"name": "Some CPU", "features": ["avx2"]}},
            },
            **changes,
        }
    )


def test_what_was_measured_is_shown():
    text = card.render(manifest())
    assert "| Metric | accuracy 91.05 (89.10 to 92.90) | accuracy 91.05 (89.10 to 92.90) |" in text
    assert "| Weights on disk | 23.10 MB | 23.10 MB |" in text
    assert "| Latency, batch 1 | 1.23 ms (openvino, 2 threads) | 1.23 ms (torch, 2 threads) |" in text
    assert "Drop: 0.40 (-0.20 to 1.00) points" in text
    assert "12.3 times" in text
    assert "Machine: Some CPU." in text
    assert "bertpress compress user/big --recipe quick" in text
    assert "`bad`, `good`" in text


def test_what_was_not_measured_says_so():
    text = card.render(manifest(metrics={}))
    assert "Nothing was measured." in text
    text = card.render(manifest(metrics={"artifact": {"parameters": 5}}))
    assert "| Metric | not measured | not measured |" in text
    assert "| Parameters | 5 | not measured |" in text


def test_the_front_matter_is_yaml_for_the_hub():
    front = yaml.safe_load(card.render(manifest()).split("---")[1])
    assert front == {
        "library_name": "bertpress",
        "tags": ["bertpress", "model-compression"],
        "pipeline_tag": "text-classification",
        "base_model": "user/big",
    }
    assert "base_model" not in card.render(manifest(parent=Parent(name="/home/me/models/big")))


@pytest.mark.parametrize("name", ["sst2", "mrpc", "stsb", "wnut17", "squad", "masked-lm", "sentence-similarity", None])
def test_code_blocks_are_python(name):
    task = None if name is None else resolve(name).model_dump(mode="json")
    text = card.render(manifest(task=task, name='with "quotes"'))
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 2
    for block in blocks:
        ast.parse(block)


def test_exports_are_named():
    record = FileRecord(bytes=3, sha256=ABC)
    text = card.render(manifest(files={"onnx/model.onnx": record, "openvino/model.xml": record}))
    assert "`onnx/` and `openvino/` run with those runtimes alone" in text


def test_it_is_a_pure_function():
    assert card.render(manifest()) == card.render(manifest())

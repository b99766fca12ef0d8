"""A run and a profile whose numbers are made up, in the shape of real ones."""

import json
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def results() -> dict[str, Any]:
    return json.loads((HERE / "results.json").read_text(encoding="utf-8"))


@pytest.fixture
def profile() -> dict[str, Any]:
    return json.loads((HERE / "profile.json").read_text(encoding="utf-8"))


@pytest.fixture
def packed(results: dict[str, Any]) -> dict[str, Any]:
    """The same run with packed weights, and notes of methods that chose bits and dictionaries."""
    made = json.loads((HERE / "packed.json").read_text(encoding="utf-8"))
    results["artifact"]["storage"] = made["storage"]
    results["stages"][-1]["notes"] = made["notes"]
    return results

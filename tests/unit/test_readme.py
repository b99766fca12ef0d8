"""What README, pages and examples say is run as it stands, on a tiny model."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from bertpress.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHORT = ["stages.0.train.epochs=1", "fine_tune.epochs=1", "export=[openvino]"]


def blocks(language):
    for page in PAGES:
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            yield page, block


def command_lines():
    for page, block in blocks("sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            for i, word in enumerate(words):
                if word == "bertpress" and (i == 0 or words[i - 1] == "|"):
                    yield page.name, words[i + 1 :]


@pytest.mark.parametrize(("page", "words"), list(command_lines()), ids=str)
def test_command_lines_parse(page, words):
    words = words[: words.index(">")] if ">" in words else words
    name, *rest = words
    command = typer.main.get_command(app).commands[name]
    with command.make_context(name, list(rest)):
        pass


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page}: {target}"


def test_python_of_the_readme_runs(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, second = (block for page, block in blocks("python") if page.name == "README.md")
    short = f"overrides={SHORT!r}, threads=1, out="
    exec(first.replace('"MODEL"', repr(str(tiny_model))).replace("out=", short), names := {})
    assert "'label':" in capsys.readouterr().out
    exec(second, names)
    assert names["classify"]("a lovely story")[0]["label"] in ("good", "bad")


def run(*words):
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, env=env)


def test_the_python_example_runs(tiny_model, tiny_data, tmp_path):
    example = ROOT / "examples/compress_your_classifier.py"
    done = run(sys.executable, example, tiny_model, tiny_data(), tmp_path / "run", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "speed-up, batch 1: " in done.stdout
    assert json.loads((tmp_path / "run/results.json").read_text())["artifact"]["metric"]["name"] == "worst_class_recall"


@pytest.mark.slow
def test_the_shell_example_runs(tiny_model, tiny_data, tmp_path):
    options = [word for change in SHORT for word in ("--set", change)]
    done = run("bash", ROOT / "examples/quickstart.sh", tiny_model, tiny_data(), tmp_path / "run", *options)
    assert done.returncode == 0, done.stderr
    assert '"label"' in done.stdout
    assert (tmp_path / "run/files/onnx/model.onnx").is_file()

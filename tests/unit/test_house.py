"""Rules of the house: public names, one tree of errors, imports that point downward, no traces of a machine."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bertpress
from bertpress import docs, errors

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/bertpress"

FLOORS = [
    {"errors", "places", "untold"},
    {"encoder"},
    {"tasks", "engines", "export", "artifact", "training", "measure", "report", "methods"},
    {
        "recipe",
        "rules",
        "repeated",
        "runfolder",
        "stages",
        "attaching",
        "outcome",
        "teacher",
        "supervision",
        "needs",
        "data",
        "other_tasks",
        "overrides",
        "plain_yaml",
    },
    {"runner", "listing", "inputs", "demo", "measuring", "predicting", "cluster"},
    {"api", "study", "search", "advice"},
    {"terminal", "options", "cli", "docs", "__main__"},
]
FLOOR_OF = {name: level for level, names in enumerate(FLOORS) for name in names}
ALLOWED_UPWARD = {("encoder", "artifact"), ("recipe", "methods"), ("terminal", "artifact")}


def modules():
    return [name for _, name, _ in pkgutil.walk_packages([str(SOURCE)], "bertpress.") if name != "bertpress.__main__"]


def imports(path):
    """Names of imported modules; those for types alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from [
                f"{node.module}.{alias.name}" if node.module == "bertpress" else node.module for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            yield from [alias.name for alias in node.names]


@pytest.mark.parametrize("name", modules())
def test_public_names_are_sorted_and_there(name):
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None)
    if names is None:
        return
    assert all(hasattr(module, each) for each in names)
    upper = [each for each in names if each.isupper()]
    classes = [each for each in names if not each.isupper() and each[0].isupper()]
    rest = [each for each in names if each[0].islower()]
    assert list(names) == sorted(upper) + sorted(classes) + sorted(rest)


def test_every_public_name_of_the_package_is_there():
    assert bertpress.__all__ == sorted(bertpress.__all__)
    for name in bertpress.__all__:
        found = getattr(bertpress, name)
        assert not inspect.ismodule(found)
        assert found.__doc__
    assert set(bertpress.__all__) <= set(dir(bertpress))


def test_functions_keep_names_that_packages_share():
    importlib.import_module("bertpress.report.run")
    importlib.import_module("bertpress.export.openvino")
    assert callable(bertpress.report)
    assert callable(bertpress.export)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        bertpress.nothing  # noqa: B018


def test_importing_the_package_is_light():
    code = "import bertpress, sys; sys.exit(str({'torch', 'transformers', 'rich'} & sys.modules.keys() or 0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "0"


def test_the_error_tree_is_drawn_as_it_is():
    drawn = re.findall(r"^[\s│├└─]*([A-Z]\w+)  ", errors.__doc__, re.MULTILINE)
    classes = [name for name, value in vars(errors).items() if inspect.isclass(value)]
    assert sorted(drawn) == sorted(classes)
    for name in classes:
        assert issubclass(getattr(errors, name), errors.BertpressError)


def test_errors_are_defined_in_one_place():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and path.name != "errors.py":
                assert not node.name.endswith("Error"), f"{path}: {node.name}"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downward(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "bertpress" or len(parts) < 2 or parts[1].startswith("__"):
            continue
        other = parts[1]
        if own != other and (own, other) not in ALLOWED_UPWARD:
            assert FLOOR_OF[other] <= FLOOR_OF[own], f"{own} imports {name}"


def test_methods_do_not_import_each_other():
    for path in SOURCE.glob("methods/*/*.py"):
        for name in imports(path):
            assert name.count(".") < 3 or not name.startswith("bertpress.methods."), f"{path}: {name}"


def test_nothing_can_run_a_pickle():
    for path in [*SOURCE.rglob("*.py"), *ROOT.glob("benchmarks/*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import pickle|from pickle import (?!UnpicklingError$))", text, re.MULTILINE), path
        for call in re.findall(r"torch\.load\([^\n]*", text):
            assert "weights_only=True" in call, f"{path}: {call}"


def tracked():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
def test_no_traces_of_a_machine():
    traces = re.compile("/" + r"(work|root)/\w|file:///" + r"opt|localhost:\d|index-" + "url")
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = traces.search(text)
        assert not found, f"{path}: {found and found.group()}"


def test_files_stay_short():
    for path in SOURCE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 320, path


def test_generated_pages_are_up_to_date():
    assert not docs.stale(), "run `make docs`"


def test_every_dependency_has_its_line():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    told = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    project = text[text.index("\ndependencies") : text.index("[project.scripts]")]
    for name in re.findall(r'"([A-Za-z][\w-]*)(?:>=|==|")', project):
        assert name == "bertpress" or re.search(rf"\b{re.escape(name)}\b", told), name


def test_the_constraints_name_torch_first_and_no_local_versions():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins[0].startswith("torch==")
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)

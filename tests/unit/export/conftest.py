from pathlib import Path

import pytest
from uneven_models import int8, mixed

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """One process runs all tests of the model that is exported once, whatever their file."""
    for item in items:
        if HERE in item.path.parents and "exported" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("exported"))


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A mixed model, float and int8, exported to both runtimes once."""
    from bertpress.export import onnx, openvino

    made = {"float": mixed()}
    made["int8"] = int8(made["float"])
    folders = {}
    for name, model in made.items():
        folders[name] = tmp_path_factory.mktemp(name)
        for exporter in (openvino, onnx):
            exporter.export(model, folders[name], metadata={"task": "toy", "max_length": 32})
    return {name: (made[name], folders[name]) for name in made}

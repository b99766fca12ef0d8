"""What OpenVINO runs as integers."""

from collections import Counter

from bertpress.engines.openvino import OpenVINO


def integer_products(folder):
    """How many products with constants run as integers, and how many as floats."""
    found = Counter()
    for node in OpenVINO.load(folder, 1)._compiled.get_runtime_model().get_ops():
        info = {key: node.rt_info[key].value for key in ("layerType", "primitiveType") if key in node.rt_info}
        if info.get("layerType", "").startswith("FullyConnected"):
            found["i8" in info["primitiveType"].lower()] += 1
    return found

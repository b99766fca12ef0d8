"""From a model in memory to files that OpenVINO, ONNX Runtime or plain transformers run without this package."""

from bertpress.report.subjects import COLUMNS, cells, subjects


def test_the_artifact_on_its_own_engine_appears_once():
    found = subjects(
        {
            "baseline": {"name": "teacher", "engine": "torch"},
            "artifact": {
                "name": "small",
                "engine": "openvino",
                "parameters": 5,
                "engines": {"openvino": {"speedup": 9.0}, "torch": {"speedup": 3.0}},
            },
            "candidates": [{"name": "other", "engine": "onnxruntime"}],
        }
    )
    assert [(s.role, s.engine, s.label) for s in found] == [
        ("baseline", "torch", "baseline"),
        ("artifact", "openvino", "openvino"),
        ("engine", "torch", "torch"),
        ("candidate", "onnxruntime", "other"),
    ]
    assert (found[1].data["speedup"], found[1].data["parameters"]) == (9.0, 5)
    assert "parameters" not in found[2].data  # what another engine was not measured for is not borrowed


def test_the_baseline_is_the_reference():
    (baseline,) = subjects({"baseline": {"weight_bytes": 1_000_000}})
    line = dict(zip(COLUMNS, cells(baseline), strict=True))
    assert (line["File"], line["Change, points"], line["Speed-up"], line["Median"]) == (
        "1.00 MB",
        "",
        "1",
        "not measured",
    )


def test_long_labels_are_cut():
    (candidate,) = subjects({"candidates": [{"name": "x" * 80}]})
    assert len(candidate.label) == 26
    assert candidate.label.endswith("…")

"""The command line: one real run on a tiny model, what is printed where, exit statuses, mistakes in one line."""

import errno
import io
import json
import os
import subprocess
import sys

import pytest
from deformed import PASSAGES, deformed

from bertpress import api, cli, terminal
from bertpress.errors import BertpressError, Interrupted

TASK = "text-classification"
FAST = ["--set", "stages.0.train.epochs=4", "--set", "fine_tune.epochs=4", "--set", "fine_tune.learning_rate=2e-3"]


@pytest.fixture
def bertpress(capsys):
    """Run a command in this process: status, standard output, standard error."""

    def run(*words):
        status = terminal.run(cli.app, [str(word) for word in words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture(scope="module")
def finished(tiny_model, tiny_data, tmp_path_factory):
    """A run of `compress`, made by a process of its own, and what it printed with --json."""
    out = tmp_path_factory.mktemp("runs") / "run"
    words = ["compress", tiny_model, "--task", TASK, "--data", tiny_data(), "--out", out, *FAST]
    done = process(*words, "--set", "export=[openvino]", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def process(*words, **options):
    command = [sys.executable, "-m", "bertpress", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, **options)


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from bertpress import cli, terminal; status = terminal.run(cli.app, ['--help'])\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'yaml'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("demo", "profile", "train", "compress", "evaluate", "bench", "predict", "export", "study", "report"):
        assert f"\n  {name} " in done.stdout


def test_version(bertpress):
    import bertpress as package

    assert bertpress("--version") == (0, f"bertpress {package.__version__}\n", "")


def test_compress_prints_exactly_one_object(finished):
    out, printed = finished
    assert printed.count("\n") == 1
    figures = json.loads(printed)
    assert figures == json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert {"baseline", "artifact", "stages", "environment", "seed", "command"} <= figures.keys()
    assert figures["artifact"]["drop"].keys() == {"value", "low", "high"}
    assert figures["command"].startswith("bertpress compress ")
    assert "--json" not in figures["command"]
    assert (out / "report.html").is_file()


def test_a_finished_run_is_not_overwritten(finished, bertpress, tiny_model, tiny_data):
    out, _ = finished
    words = ["compress", tiny_model, "--task", TASK, "--data", tiny_data(), "--out", out]
    status, printed, said = bertpress(*words)
    assert (status, printed) == (2, "")
    assert said == f"error: {out}: holds a run already; add --resume to go on with it, or choose another --out\n"


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_evaluate_scores_from_disk_what_the_run_recorded(finished, bertpress, tiny_data, engine):
    out, printed = finished
    status, said, _ = bertpress("evaluate", out, "--data", tiny_data(), "--engine", engine, "--threads", 1, "--json")
    assert status == 0
    recorded = json.loads(printed)["artifact"]["engines"][engine]["metric"]
    assert json.loads(said)["metric"] == recorded


def test_predict_answers_a_line_with_an_object(finished, bertpress, monkeypatch):
    out, _ = finished
    monkeypatch.setattr("sys.stdin", io.StringIO("the film was good .\nthe cat was bad .\n"))
    status, printed, _ = bertpress("predict", out, "--threads", 1)
    assert status == 0
    answers = [json.loads(line) for line in printed.splitlines()]
    assert [sorted(answer) for answer in answers] == [["label", "score", "scores"]] * 2
    monkeypatch.setattr("sys.stdin", io.StringIO("the film was good .\nthe cat was bad .\n"))
    _, printed, _ = bertpress("predict", out, "--threads", 1, "--json")
    assert json.loads(printed)["predictions"] == answers


def test_predict_keeps_what_it_knows_of_passages(bertpress, monkeypatch, tiny_model, tmp_path):
    made = deformed(tmp_path / "model", tiny_model)
    file = tmp_path / "passages.jsonl"
    file.write_text("".join(json.dumps({"id": k, "text": v}) + "\n" for k, v in PASSAGES.items()), encoding="utf-8")
    words = ("predict", made.path, "--passages", file, "--threads", 1)
    monkeypatch.setattr("sys.stdin", io.StringIO('{"question": "who ?", "passage": "rome"}\nwhat was good ?\tfilm\n'))
    status, printed, _ = bertpress(*words)
    assert status == 0
    answers = [json.loads(line) for line in printed.splitlines()]
    assert [sorted(answer) for answer in answers] == [["answer", "end", "score", "start"]] * 2
    assert len(list((tmp_path / "passages.jsonl.states").rglob("*.safetensors"))) > len(PASSAGES)  # one has windows
    monkeypatch.setattr("sys.stdin", io.StringIO("who ?\tberlin\n"))
    status, printed, said = bertpress(*words, "--states", tmp_path / "elsewhere", "--store", "int8")
    assert (status, printed) == (2, "")
    assert said.splitlines()[-1] == "error: input line 1: no passage 'berlin' among the 3 that are known"


def test_export_and_report_name_what_they_wrote(finished, bertpress, tmp_path):
    out, _ = finished
    teacher = out / "teacher"
    status, printed, _ = bertpress("export", teacher, "--to", "transformers", "--out", tmp_path / "plain", "--json")
    assert status == 0
    assert json.loads(printed)["path"] == str(tmp_path / "plain")
    assert (tmp_path / "plain" / "model.safetensors").is_file()
    status, _, said = bertpress("export", teacher, "--to", "onnx", "--out", tmp_path / "half", "--width", "0.5")
    assert (status, said.count("\n")) == (2, 1)
    assert "has no sub-networks" in said
    status, _, said = bertpress("export", out, "--to", "transformers", "--out", tmp_path / "cut")
    assert status == 2
    assert "layers.0.attention" in said  # fewer heads than span the hidden width: no plain config says that
    assert not (tmp_path / "cut").exists()
    page = tmp_path / "page.html"
    assert bertpress("report", out, "--html", page) == (0, f"{page}\n", "")
    assert page.read_bytes() == (out / "report.html").read_bytes()


def test_a_page_that_cannot_be_written_is_as_it_was(finished, bertpress, tmp_path, monkeypatch):
    out, _ = finished
    page = tmp_path / "page.html"
    page.write_text("precious", encoding="utf-8")

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("os.fsync", full)
    status, _, said = bertpress("report", out, "--html", page)
    assert (status, said) == (2, f"error: {page}: no space left on the disk\n")
    assert page.read_text(encoding="utf-8") == "precious"
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize("content", ["{}", '{"artifact": {}, "baseline": {}}'])
def test_without_figures_there_is_no_page(bertpress, tmp_path, content):
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    status, _, said = bertpress("report", tmp_path)
    assert (status, said.count("\n")) == (2, 1)
    assert said.endswith("results.json: holds no figures of a run: artifact, metric or metrics\n")
    assert not (tmp_path / "report.html").exists()


def test_bench_refuses_texts_of_another_task(finished, bertpress, tiny_data):
    out, _ = finished
    words = ["bench", out, "--baseline", out / "teacher", "--task", "text-regression", "--data", tiny_data()]
    status, _, said = bertpress(*words, "--threads", 1)
    assert (status, said.count("\n")) == (2, 1)
    assert "is text-regression, but" in said
    assert "is for text-classification" in said


def test_bench_tells_a_ratio(finished, bertpress, tiny_data):
    out, _ = finished
    words = ["bench", out, "--baseline", out / "teacher", "--task", TASK, "--data", tiny_data(), "--rounds", 2]
    status, printed, _ = bertpress(*words, "--engine", "openvino", "--threads", 1, "--json")
    assert status == 0
    figures = json.loads(printed)
    assert figures["baseline"]["speedup"] == 1
    (candidate,) = figures["artifacts"]
    assert candidate["speedup"] > 0
    assert len(candidate["latency_ms"]["samples"]) == 2 * 8


def test_train_makes_an_artifact(bertpress, tiny_model, tiny_data, tmp_path):
    words = ["train", tiny_model, "--task", TASK, "--data", tiny_data(), "--out", tmp_path / "t", "--set", "epochs=1"]
    status, printed, _ = bertpress(*words, "--train-limit", 16, "--validation-limit", 8, "--json")
    assert status == 0
    figures = json.loads(printed)
    assert figures["metric"]["name"] == "accuracy"
    assert api.load(tmp_path / "t").task.labels == ("bad", "good")


def test_profile_counts_bert_tiny(bertpress, tmp_path):
    png, html = tmp_path / "p.png", tmp_path / "p.html"
    words = ["profile", "shape:bert-tiny", "--tokens", 16, "--rounds", 1, "--threads", 1]
    status, printed, _ = bertpress(*words, "--png", png, "--html", html, "--json")
    assert status == 0
    figures = json.loads(printed)
    assert figures["parameters"] == 4_385_920  # google/bert_uncased_L-2_H-128_A-2
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert "<html" in html.read_text(encoding="utf-8")
    status, printed, _ = bertpress(*words)
    assert status == 0
    assert "Feed-forward" in printed


def test_listings(bertpress):
    for name in ("methods", "recipes"):
        _, printed, _ = bertpress(name, "--json")
        for entry in json.loads(printed):
            assert {"name", "family", "cite", "summary"} <= entry.keys()
            _, one, _ = bertpress(name, entry["name"], "--json")
            assert json.loads(one)["name"] == entry["name"]
            status, text, _ = bertpress(name, entry["name"])
            assert status == 0
            assert entry["name"] in text


MISTAKES = [
    (["compres"], "No such command 'compres'. Did you mean 'compress'?"),
    (["compress", "{model}", "--task", TASK], "Missing option '--out'."),
    (["methods", "--jsn"], "No such option: --jsn (Possible options: --json)"),
    (["evaluate", "{model}", "--engine", "tpu"], "'tpu' is not one of 'torch', 'onnxruntime', 'openvino'"),
    (["evaluate", "{none}"], "{none}: no such folder"),
    (["evaluate", "{model}"], "{model}: no bertpress.json, so no artifact of bertpress"),
    (["report", "{none}"], "{none}: has no results.json, so no finished run"),
    (["methods", "prune/head"], 'unknown method "prune/head"; did you mean "prune/heads"?'),
    (["recipes", "quik"], 'unknown recipe "quik"; did you mean "quick"?'),
    (["{compress}", "--recipe", "quik"], 'unknown recipe "quik"; did you mean "quick"?'),
    (["{compress}", "--set", "stages.0.train.epochs=0"], "quick.yaml stage 1, train: epochs=0 must be in (0, 10000]"),
    (["{compress}", "--text-columns", "sentence"], "train.jsonl: no column 'sentence' (available: text, label)"),
    (["{compress}", "--class-weights", "much"], "--class-weights much: must be balanced, or numbers"),
    (["{compress}", "--id2label", "{none}"], "--id2label {none}: not a JSON file in UTF-8"),
    (["{compress}", "--metric", "bleu"], "metric 'bleu' must be one of accuracy"),
    (["{compress}", "--data", "{none}"], "--data {none} does not exist"),
    (["profile", "{none}"], "{none}: no such folder"),
    (["profile", "shape:bert-tny"], "did you mean bert-tiny?"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_mistakes_are_told_in_one_line_and_write_nothing(bertpress, tiny_model, tiny_data, tmp_path, words, message):
    none, out = tmp_path / "none", tmp_path / "out"
    places = {"model": tiny_model, "none": none}
    compress = ["compress", tiny_model, "--task", TASK, "--data", tiny_data(), "--out", out]
    given = [*compress, *words[1:]] if words[0] == "{compress}" else words
    status, printed, said = bertpress(*(str(word).format(**places) for word in given))
    assert (status, printed) == (2, "")
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message.format(**places) in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted; the same command with --resume goes on\n"),
        (Interrupted("stopped at step 3; add --resume"), 130, "error: stopped at step 3; add --resume\n"),
        (BertpressError("the clock stood still"), 1, "error: the clock stood still\n"),
        (OSError(28, "No space left on device", "/disk/file"), 2, "error: /disk/file: no space left on the disk\n"),
        (MemoryError(), 2, "error: the machine has too little memory for this\n"),
    ],
)
def test_exit_statuses(bertpress, monkeypatch, fault, status, message):
    def compress(*args, **kwargs):
        raise fault

    monkeypatch.setattr(api, "compress", compress)
    assert bertpress("compress", "m", "--task", TASK, "--out", "o") == (status, "", message)


def test_a_fault_of_ours_shows_where(bertpress, monkeypatch):
    monkeypatch.setattr(api, "report", lambda *a, **k: 1 / 0)
    status, printed, said = bertpress("report", "run")
    assert (status, printed) == (1, "")
    assert "Traceback" in said
    assert said.endswith("error: a fault of bertpress: ZeroDivisionError: division by zero\n")


def test_noise_of_libraries_stays_off_standard_output():
    code = (
        "import os\nfrom bertpress.terminal import Answer, answering\n"
        "@answering\n"
        "def command(json_=True):\n"
        "    print('python'); os.write(1, b'c library')\n"
        "    return Answer({'nan': float('nan')})\n"
        "command(json_=True)\nprint('after')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == '{"nan": null}\nafter\n'
    assert "python" in done.stderr
    assert "c library" in done.stderr


def test_a_closed_pipe_is_no_error():
    command = [sys.executable, "-m", "bertpress", "methods"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")

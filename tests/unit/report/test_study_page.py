"""The study's table in every form, and its page, from made-up results."""

import csv
import io
import re

import pytest

from bertpress.report import study_page, study_table
from bertpress.report.survey_table import as_csv, cells, latex, markdown, tasks_of

PUBLISHED = {
    "method": "GOBO", "origin": "published", "group": "Quantization", "cite": "Zadeh et al., 2020", "setup": "S",
    "device": None, "size": 10.2, "size_without": 5.5, "of_bert_base": 10.2, "peak_memory_bytes": None, "gpu": 1,
    "cpu": 1, "reference": None, "scores": {"mnli": 83.7}, "drop": 0.9, "runs": None, "notes": ["5.5 % is doubtful"],
}  # fmt: skip
MEASURED = {
    **PUBLISHED, "method": "gobo_3 <b>", "origin": "measured", "device": "R&D", "size": 12.345, "of_bert_base": 2.56,
    "notes": [], "peak_memory_bytes": 123_456_789, "gpu": None, "cpu": 1.0449, "reference": 43.21,
    "scores": {"sst2": 90.04}, "drop": -0.004, "runs": 3,
}  # fmt: skip
TABLE = [PUBLISHED, MEASURED]
FRONT = {
    "task": "sst2", "cost": "size", "teacher": 1e8, "points": [
        {"label": "gobo", "cost": 1e7, "drop": 0.5, "low": -0.1, "high": 1.2, "dominated": False},
        {"label": "worse", "cost": 2e7, "drop": 2.0, "low": 1.0, "high": 3.0, "dominated": True},
    ],
}  # fmt: skip
VERDICT = {
    "claim": {"text": "Low rank is no faster.", "cite": "Ganesh et al., 2021", "better": "svd", "worse": "",
              "section": "4.2"},
    "pairs": 6, "value": 0.2, "low": 0.1, "high": 0.3, "unit": "times", "verdict": "holds",
    "evidence": ["svd-features"],
}  # fmt: skip
STUDY = {
    "study": "mine", "summary": "Three ways.", "command": "bertpress study mine.yaml",
    "table": TABLE, "fronts": [FRONT],
    "claims": [VERDICT, {**VERDICT, "verdict": "does not hold here"}], "environment": {"python": "3.11"},
    "entries": [{"label": "gobo", "model": "m", "task": "sst2", "seed": 0, "folder": "runs/m/sst2/gobo-0",
                 "baseline": {"weight_bytes": 100}, "artifact": {"weight_bytes": 10, "drop": {"value": 0.5}}}],
    "failures": [{"name": "qbert, m, sst2, seed 0", "reason": "took longer than minutes=5", "said": "stage one"}],
}  # fmt: skip


def test_cells_are_rounded_and_signed():
    assert tasks_of(TABLE) == ["mnli", "sst2"]
    assert cells(PUBLISHED, tasks_of(TABLE)) == [
        "S", "-", "10.2", "5.50", "10.2", "-", "1.00x", "1.00x", "-", "83.7", "-", "-0.90",
    ]  # fmt: skip
    assert cells(MEASURED, tasks_of(TABLE)) == [
        "S", "R&D", "12.3", "5.50", "2.56", "123", "-", "1.04x", "43.21x", "-", "90.0", "0.00",
    ]  # fmt: skip


def test_markdown():
    title, blank, head, rule, first, second = markdown(TABLE).splitlines()
    assert (title, blank) == ("**Quantization**", "")
    assert head.startswith(
        "| Method | Figures | Setup | Device | Size, % | Without embeddings, % | Of BERT-base, % | Peak memory, MB |"
    )
    assert rule == "| --- |" + " ---: |" * 13
    assert first == "| GOBO | published | S | - | 10.2 | 5.50 | 10.2 | - | 1.00x | 1.00x | - | 83.7 | - | -0.90 |"
    assert second.startswith("| gobo\\_3 &lt;b&gt; | measured | S | R&amp;D | 12.3 |")


def test_latex():
    assert latex(TABLE).splitlines() == [
        r"\begin{tabular}{llllrrrrrrrrrr}",
        r"Method & Figures & Setup & Device & Size, \% & Without embeddings, \% & Of BERT-base, \% & Peak memory, MB & "
        r"GPU & CPU & Reference & mnli & sst2 & Average drop \\",
        r"\hline",
        r"\hline",
        r"\multicolumn{14}{l}{\textit{Quantization}} \\",
        r"GOBO & published & S & - & 10.2 & 5.50 & 10.2 & - & 1.00x & 1.00x & - & 83.7 & - & $-$0.90 \\",
        r"gobo\_3 <b> & measured & S & R\&D & 12.3 & 5.50 & 2.56 & 123 & - & 1.04x & 43.21x & - & 90.0 & 0.00 \\",
        r"\end{tabular}",
    ]


def test_csv_has_figures_in_full():
    published, measured = csv.DictReader(io.StringIO(as_csv(TABLE)))
    assert published["notes"] == "5.5 % is doubtful"
    assert (published["mnli"], published["sst2"], published["peak_memory_bytes"]) == ("83.7", "", "")
    assert (measured["size"], measured["cpu"], measured["drop"]) == ("12.345", "1.0449", "-0.004")


def test_the_page_shows_everything_once():
    page = study_page(STUDY)
    told = ["mine", "Three ways.", "1 runs, 1 failed", "took longer than minutes=5; stage one", "section 4.2"]
    told += ["Low rank is no faster.", "1 holds, 1 does not hold here", 'href="runs/m/sst2/gobo-0/report.html"']
    for words in told:
        assert words in page
    assert "<b>" not in page.replace("gobo_3 &lt;b&gt;", "")
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert page.count("<svg") == 1


def test_marks_are_linked_and_beaten_ones_step_back():
    page = study_page({**STUDY, "fronts": [FRONT, {**FRONT, "task": "mrpc"}]})
    assert page.count('data-link="gobo"') == 2
    assert page.count('class="point artifact" data-link="gobo"') == 2
    assert page.count('class="point dominated" data-link="worse"') == 2


def test_rows_carry_what_they_are_sorted_by():
    page = study_page(STUDY)
    row = re.findall(r"<tr class=\"measured\">.*?</tr>", page)[0]
    assert re.findall(r'data-value="([^"]*)"', row)[2:] == [
        "S",
        "R&amp;D",
        "12.345",
        "5.5",
        "2.56",
        "123456789",
        "1.0449",
        "43.21",
        "90.04",
        "0.004",
    ]
    assert page.count('<button type="button">') == 14


@pytest.mark.parametrize(
    "study", [{}, {"fronts": [{"points": [{}]}], "claims": [{}], "entries": [{}], "failures": [{}]}]
)
def test_what_is_missing_is_said(study):
    assert "not measured" in study_page(study)


def test_the_page_says_what_means_are_over():
    told = "are means over sst2, mrpc, where"
    assert told in study_page({**STUDY, "plan": {"averaged": ["sst2", "mrpc"]}})
    assert "are means over" not in study_page({**STUDY, "plan": {"averaged": None}})


def test_the_terminal_shows_measured_rows(capsys):
    from rich.console import Console

    Console(width=160).print(study_table(STUDY))
    shown = capsys.readouterr().out
    assert "gobo_3" in shown
    assert "GOBO" not in shown

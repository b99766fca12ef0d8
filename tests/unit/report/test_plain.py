import re
from io import StringIO

from rich.console import Console

from bertpress.report import bench_table, engines_table, markdown, table


def printed(shown, width=160):
    console = Console(width=width, record=True, file=StringIO())
    console.print(shown)
    return console.export_text()


def test_markdown_has_the_verdict_the_tables_and_the_command(results):
    source = markdown(results)
    assert source.startswith("**6.2x smaller, 9.1x faster, -0.4 points [-1.2, +0.4]**\n")
    assert "| Parameters | 22.71 M | 14.41 M | 1.6x fewer |" in source
    assert "| Metric: accuracy | 91.3 [89.4, 93.1] | 90.9 [88.9, 92.7] | -0.4 points [-1.2, +0.4] |" in source
    assert "| quick-sst2, onnxruntime | 14.9 MB | 1.85 ms |" in source
    assert f"```\n{results['command']}\n```" in source
    tables = re.findall(r"(?:^\|.*\n)+", source, re.MULTILINE)
    for lines in (found.splitlines() for found in tables):
        assert len({re.sub(r"\\\|", "", line).count("|") for line in lines}) == 1
    assert len(tables) == 2


def test_markdown_keeps_hostile_names_in_their_cell(results):
    results["baseline"]["name"] = "a|b\n# c <script> [x](http://evil.example) `d` *e*"
    results["command"] = "echo '```'"
    source = markdown(results)
    assert "<script>" not in source
    assert "a\\|b # c &lt;script&gt; [x]\\(http://evil.example) \\`d\\` \\*e\\*" in source
    assert "````\necho '```'\n````" in source


def test_markdown_of_nothing():
    assert markdown({}).count("not measured") > 30


def test_the_terminal_shows_the_same_rows(results):
    shown = printed(table(results))
    assert "6.2x smaller, 9.1x faster, -0.4 points [-1.2, +0.4]" in shown
    assert re.search(r"Parameters without embeddings\W+10.80 M\W+2.49 M\W+4.3x fewer", shown)
    assert re.search(r"quick-sst2, torch\W+14.6 MB", printed(engines_table(results)))


def test_rich_markup_in_names_stays_text(results):
    results["artifact"]["name"] = "[red]x[/red] [/]"
    assert "[red]x[/red] [/]" in printed(table(results))
    assert "[red]x[/red] [/]" in printed(engines_table(results))


def test_a_bench_is_shown_with_its_first_as_the_baseline():
    figures = [
        {"name": "teacher", "engine": "torch", "latency_ms": {"median": 10.0}, "speedup": 1.0},
        {"name": "small", "engine": "openvino", "latency_ms": {"median": 1.0}, "speedup": 9.9},
    ]
    shown = printed(bench_table(figures))
    assert re.search(r"teacher, torch\W.*10.0 ms.* 1 ", shown)
    assert re.search(r"small, openvino\W.*1.00 ms.*9.9x", shown)

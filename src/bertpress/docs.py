"""Writes the pages that follow from the code: ``python -m bertpress.docs [--check]``.

Pages of methods and recipes are generated whole; pages of commands, that of Table 1 and the README keep what people
wrote and have blocks between markers replaced.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import typer

from bertpress.cli import app
from bertpress.listing import methods, recipe_text, recipes
from bertpress.report import markdown, survey_table
from bertpress.report.claims import claims_table
from bertpress.report.fronts import fronts_table

ROOT = Path(__file__).resolve().parents[2]
DEMO_RESULTS = "results/demo.json"
HEADLINE_TABLE = "results/headline.md"
STUDY_RESULTS = "results/table1/study.json"
_NOT_YET = "No run is recorded yet: `make demo` measures on your own machine.\n"
_NOTICE = "<!-- written by `make docs`; change the code instead -->\n\n"


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Every generated file with its text, as it should be."""
    found = {
        root / "docs/methods/README.md": _index("Methods", methods(), _page_name),
        root / "docs/recipes/README.md": _index("Recipes", recipes(), lambda name: f"{name}.md"),
    }
    for entry in methods():
        found[root / "docs/methods" / _page_name(entry["name"])] = method_page(methods(entry["name"])[0])
    for entry in recipes():
        found[root / "docs/recipes" / f"{entry['name']}.md"] = recipe_page(recipes(entry["name"])[0])
    for name, command in sorted(typer.main.get_command(app).commands.items()):  # type: ignore[attr-defined]
        path = root / "docs/commands" / f"{name}.md"
        found[path] = with_block(path, "options", command_block(name, command))
    readme = root / "README.md"
    found[readme] = with_block(readme, "results", results_block(root))
    if (headline := root / HEADLINE_TABLE).is_file():
        found[readme] = block_in(found[readme], "headline", headline.read_text(encoding="utf-8"))
    if (study := root / STUDY_RESULTS).is_file():
        page = root / "docs/table1.md"
        results = json.loads(study.read_text(encoding="utf-8"))
        found[page] = with_block(page, "table", survey_table.markdown(results["table"]))
        found[page] = block_in(found[page], "fronts", fronts_table(results))
        found[page] = block_in(found[page], "claims", claims_table(results))
    return found


def _page_name(method: str) -> str:
    return method.replace("/", "-") + ".md"


def _index(title: str, entries: list[dict[str, Any]], page: Any) -> str:
    rows = [f"| [`{e['name']}`]({page(e['name'])}) | {e['summary']} | {e['cite']} |" for e in entries]
    return f"{_NOTICE}# {title}\n\n| Name | What it does | Source |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"


def method_page(entry: dict[str, Any]) -> str:
    """One method: summary, source and departures from it, what it needs and leaves, its fields."""
    lines = [f"# `{entry['name']}`", "", entry["summary"], ""]
    lines += [entry["about"] or f"Source: {entry['cite']}.", ""]
    for key, words in (("requires", "Needs"), ("provides", "Leaves"), ("conflicts", "Cannot follow")):
        if entry[key]:
            lines += [f"{words}: {', '.join(entry[key])}.", ""]
    if entry["fields"]:
        lines += ["| Field | Default | Allowed | Meaning |", "| --- | --- | --- | --- |"]
        for field in entry["fields"]:
            cells = (f"`{field['name']}`", f"`{json.dumps(field['default'])}`", field["allowed"], field["description"])
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    example = f"  - use:\n      - {entry['name']}: {{}}"
    return _NOTICE + "\n".join([*lines, "In a recipe:", "", "```yaml", "stages:", example, "```"]) + "\n"


def recipe_page(entry: dict[str, Any]) -> str:
    """One recipe, with every default written out."""
    source = f"Source: {entry['cite']}.\n\n" if entry["cite"] else ""
    return (
        f"{_NOTICE}# `{entry['name']}`\n\n{entry['summary']}\n\n{source}"
        f"```sh\nbertpress compress MODEL --recipe {entry['name']} --task TASK --out DIR\n```\n\n"
        f"Everything that it says, defaults included:\n\n```yaml\n{recipe_text(entry)}\n```\n"
    )


def command_block(name: str, command: Any) -> str:
    """Arguments and options of a command."""
    lines = [
        f"```\nbertpress {name}{_usage(command)}\n```",
        "",
        "| Option | Default | Meaning |",
        "| --- | --- | --- |",
    ]
    for parameter in command.params:
        if parameter.name == "help":
            continue
        flags = ", ".join(parameter.opts) if parameter.opts[0].startswith("-") else parameter.name.upper()
        lines.append(f"| `{flags}` | {_default(parameter)} | {parameter.help or ''} |")
    return "\n".join(lines) + "\n"


def _usage(command: Any) -> str:
    words = []
    for parameter in command.params:
        if parameter.opts[0].startswith("-"):
            words += [f"{parameter.opts[0]} {parameter.opts[0].lstrip('-').upper()}"] if parameter.required else []
        else:
            word = parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
            words.append(word if parameter.required else f"[{word}]")
    return "".join(f" {word}" for word in words)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    return f"`{value}`" if value not in (None, False, ()) and not callable(value) else ""


def results_block(root: Path) -> str:
    """The table of the recorded demo run."""
    path = root / DEMO_RESULTS
    return markdown(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else _NOT_YET


def with_block(path: Path, name: str, block: str) -> str:
    """The file's text with the block between its markers replaced; markers are added where there are none."""
    return block_in(path.read_text(encoding="utf-8") if path.is_file() else f"# bertpress {path.stem}\n", name, block)


def block_in(text: str, name: str, block: str) -> str:
    """A text with the block between its markers replaced; markers are added where there are none."""
    start, end = f"<!-- {name}: written by `make docs` -->", f"<!-- end of {name} -->"
    inside = f"{start}\n\n{block}\n{end}"
    found = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    return found.sub(lambda _: inside, text) if found.search(text) else f"{text.rstrip()}\n\n{inside}\n"


def stale(root: Path = ROOT) -> list[Path]:
    """Generated files that are not as they should be, and pages of what is no more."""
    wanted = pages(root)
    there = {path for name in ("methods", "recipes", "commands") for path in (root / "docs" / name).glob("*.md")}
    different = [p for p, text in wanted.items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
    return sorted({*different, *(there - wanted.keys())})


def main() -> None:
    """Write what is stale, or with ``--check`` name it and fail."""
    wanted, old = pages(), stale()
    for path in old:
        sys.stderr.write(f"{path.relative_to(ROOT)}\n")
        if "--check" in sys.argv[1:]:
            continue
        if path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()
    sys.exit(1 if old and "--check" in sys.argv[1:] else 0)


if __name__ == "__main__":
    main()

"""What the documents claim is compared with the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from commands.parser import subcommands
from engine.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent


def settings_table() -> str:
    """The README's table, from the settings themselves."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for f in fields(Settings):
        default = "" if f.default is None else f"`{f.default}`"
        unit = f" ({f.metadata['unit']})" if f.metadata["unit"] else ""
        lines.append(f"| `{PREFIX}{f.name.upper()}` | {default} | {f.metadata['help']}{unit} |")
    return "\n".join(lines)


def test_the_readme_lists_every_setting_with_its_default() -> None:
    text = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- settings: .*? -->\n(.*?)\n?<!-- /settings -->", text, re.S)
    assert found is not None
    assert found.group(1) == settings_table()


def test_links_in_documents_lead_somewhere() -> None:
    for document in ROOT.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if not target.startswith("http"):
                assert (ROOT / target).exists(), f"{document.name} links to {target}"


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    for command in subcommands():
        assert re.search(rf"^python cli\.py {command}\b(?!-)", text, re.M), command


def test_sources_name_no_absolute_path_of_a_workplace() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*.py"), *(ROOT / "engine").rglob("*.py")]:
        assert not re.search(r"/(work|home|root)/", path.read_text()), path

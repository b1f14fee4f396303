"""Claims are tested: the public surface, what importing costs, the commands in the README, the tree in the docs, the example."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import shoptalk
from shoptalk.cli.running import STAGE_HELP
from shoptalk.pipeline import NAMES
from shoptalk.settings import Settings, commented_yaml

ROOT = Path(__file__).parent.parent


def test_the_public_surface_is_what_it_says() -> None:
    assert sorted(shoptalk.__all__) == shoptalk.__all__
    for name in shoptalk.__all__:
        assert getattr(shoptalk, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = shoptalk.nothing


@pytest.mark.parametrize("statement", ["import shoptalk", "import shoptalk.cli.app"])
def test_importing_loads_no_torch(statement: str) -> None:
    code = f"{statement}; import sys; print([n for n in ('torch', 'transformers', 'sentence_transformers') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_there_is_a_command_for_every_stage_but_select_which_has_nothing_to_show() -> None:
    assert [*STAGE_HELP] == [name for name in NAMES if name != "select"]


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "examples" / "pmo" / "README.md", ROOT / "CONTRIBUTING.md"]


def shoptalk_commands(text: str) -> list[list[str]]:
    """Every `shoptalk ...` command in the code blocks of a Markdown text, its continuation lines joined."""
    blocks = re.findall(r"```(?:bash|sh|console)?\n(.*?)```", text, re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("shoptalk ")]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_in_the_documents_exist_with_their_options(path: Path) -> None:
    import typer

    from shoptalk.cli.app import app

    group = typer.main.get_command(app)
    for words in shoptalk_commands(path.read_text(encoding="utf-8")):
        name = next((word for word in words[1:] if not word.startswith("-")), None)
        options = {word.split("=")[0] for word in words[1:] if word.startswith("--")}
        known = {option for parameter in group.params for option in parameter.opts}
        if name is not None:
            command = group.commands[name]  # type: ignore[attr-defined]
            known |= {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert options <= known, f"{path}: {' '.join(words)}"


def test_the_readme_shows_commands_at_all() -> None:
    assert len(shoptalk_commands((ROOT / "README.md").read_text(encoding="utf-8"))) >= 5


def test_the_tree_in_the_design_is_the_tree_on_disk() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    tree = text[text.index("    src/shoptalk/\n") : text.index("    tests/ ")]
    named = {line.split()[0].rstrip("/") for line in tree.splitlines()[1:] if line.strip()}
    package = ROOT / "src" / "shoptalk"
    there = {
        path.name
        for path in package.iterdir()
        if path.name not in ("__init__.py", "__main__.py", "__pycache__", "py.typed")
    }
    assert named == there


def test_the_stages_in_the_design_are_the_stages_of_the_table() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r'Stage\("(\w+)"', text)) == NAMES


def test_the_written_settings_are_the_defaults() -> None:
    assert Settings.model_validate(yaml.safe_load(commented_yaml())) == Settings()


def test_the_example_keeps_its_own_rules() -> None:
    done = subprocess.run([sys.executable, "examples/pmo/check.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_file_holds_versions_only() -> None:
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*(\.post\d+)?", line), line


def test_the_training_guide_says_of_every_loss_and_method_what_the_tables_say() -> None:
    from shoptalk.training.methods import METHODS
    from shoptalk.training.objectives import OBJECTIVES

    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    said = {cells[0].strip("`"): cells for cells in rows if not cells[0].startswith("`train.")}
    assert said.keys() == {*OBJECTIVES, *METHODS}
    for name, objective in OBJECTIVES.items():
        assert said[name][2:] == [objective.when, objective.source]
        assert all(need in said[name][1] for need in objective.needs)
    for name, method in METHODS.items():
        assert said[name][1:] == [method.when, f"{method.learning_rate:g}", method.source]


def test_the_data_guide_names_every_format_and_every_kind_of_offline_query() -> None:
    from shoptalk.corpus.readers import READERS
    from shoptalk.queries.generators import GENERATORS
    from shoptalk.settings import QuerySettings

    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    suffixes = {name for first, _ in rows for name in re.findall(r"`(\.[a-z]+)`", first)}
    assert suffixes == set(READERS)
    kinds = {
        name: "not in the default" not in second for first, second in rows for name in re.findall(r"`([a-z-]+)`", first)
    }
    assert kinds == {name: name in QuerySettings().kinds for name in GENERATORS}


def test_the_guide_to_proof_names_every_finding() -> None:
    from shoptalk.diagnosis.diagnosing import FINDINGS

    text = (ROOT / "docs" / "proof.md").read_text(encoding="utf-8")
    table = text[text.index("## What broke?") :]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == list(FINDINGS)

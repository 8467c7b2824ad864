"""The documentation as a site: it is complete, its tutorial runs, and it builds without a warning (.ci/docs)."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make_site():
    spec = importlib.util.spec_from_file_location("make_site", ROOT / "docs" / "make_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_menu():
    menu = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} | {"README.md"}
    assert pages <= menu
    assert {name for name in menu - {"api.md", "gallery/index.md"} if not (ROOT / name).is_file()} == set()


def test_the_reference_has_every_interface_that_is_to_be_extended():
    """What docs/extending.md tells to open, and every protocol."""
    named = [name for names in make_site().INTERFACES.values() for name in names]
    modules = {".".join(part for part in name.split(".") if part[0].islower()) for name in named}
    opened = re.findall(r"`(sia_runner/[\w/]+)\.py`", (ROOT / "docs" / "extending.md").read_text())
    protocols = [
        path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "sia_runner").rglob("protocol.py")
    ]
    wanted = {path.replace("/", ".") for path in [*opened, *protocols] if "/config/" not in path}  # configuration.md
    assert wanted - modules == set()
    for name in named:
        module, _, member = name.rpartition(".") if name[name.rindex(".") + 1].isupper() else (name, "", "")
        assert f"class {member}" in (ROOT / f"{module.replace('.', '/')}.py").read_text() or not member


@pytest.mark.slow
def test_the_tutorial_runs_from_beginning_to_end():
    """Offline; in a minute on an idle machine."""
    jupytext = pytest.importorskip("jupytext", reason="the extra `docs` is not installed")
    client = pytest.importorskip("nbclient", reason="the extra `docs` is not installed")
    notebook = jupytext.read(ROOT / "docs" / "tutorial.md")
    client.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 8 and all(cell.execution_count for cell in code)
    printed = "".join(output.text for cell in code for output in cell.outputs if output.output_type == "stream")
    assert "test, best" in printed and "every score was recomputed and holds" in printed and "McNemar" in printed

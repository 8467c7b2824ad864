"""Imports point down only, inside functions too; the components do not import one another."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sia_runner

PACKAGE = Path(sia_runner.__file__).parent
BASE = ["records", "errors", "text", "system"]
COMPONENTS = ["tasks", "proposers", "gateway", "policy", "training", "sandbox", "compute", "tracking"]
LAYERS = [
    BASE,
    ["stage_results"],
    ["config"],
    ["wire"],
    ["store"],
    ["selection"],
    COMPONENTS,
    ["experiment"],
    ["sweep"],
    ["results"],
    ["commands"],
    ["__main__"],
]
ORDER = {name: number for number, layer in enumerate(LAYERS) for name in layer}


def part(module):
    """Return the top-level part of a module name below sia_runner, or "" for the package itself."""
    return module.removeprefix("sia_runner").removeprefix(".").split(".")[0]


def imports(path):
    """Yield (line, module) for each import of ours in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names if name.name.split(".")[0] == "sia_runner")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import"
            if node.module == "sia_runner":
                yield from ((node.lineno, f"sia_runner.{name.name}") for name in node.names)
            elif node.module and node.module.startswith("sia_runner."):
                yield node.lineno, node.module


def parts():
    return sorted(
        {p.stem for p in PACKAGE.glob("*.py")} | {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    )


def files(name):
    folder = PACKAGE / name
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def test_every_part_of_the_package_has_a_layer():
    assert set(parts()) - {"__init__", "_bundled"} == set(ORDER)


@pytest.mark.parametrize("name", sorted(ORDER))
def test_imports_point_down(name):
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports {module}"
        for path in files(name)
        for line, module in imports(path)
        if part(module) != name and ORDER.get(part(module), -1) >= ORDER[name]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_base_imports_nothing_of_ours_but_itself():
    for name in BASE:
        used = {part(module) for path in files(name) for _, module in imports(path)}
        assert used & set(ORDER) <= set(BASE)


def test_training_knows_no_framework():
    """Its numbers are numpy's; tensors are a learner's matter. It asks torch for nothing but a group of processes."""
    code = (
        "import sys, sia_runner.training.drivers, sia_runner.training.algorithms.ppo;"
        "assert not {'torch', 'transformers', 'peft', 'trl', 'accelerate'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    asked = {
        name.name if isinstance(node, ast.Import) else f"{node.module}.{name.name}"
        for path in files("training")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    heavy = {name for name in asked if name.split(".")[0] in {"torch", "transformers", "peft", "trl", "accelerate"}}
    assert heavy == {"torch.distributed"}


def test_a_wrong_import_would_be_noticed(tmp_path):
    program = tmp_path / "module.py"
    program.write_text(
        "def late():\n    from sia_runner.experiment.loop import ExperimentLoop\n    import sia_runner.sweep.plan\n"
    )
    assert list(imports(program)) == [(2, "sia_runner.experiment.loop"), (3, "sia_runner.sweep.plan")]

"""Imports go one way, in no circle, and neither help nor a text search loads torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {"indexer": 0, "retrieval": 1, "cli": 2}
HEAVY = ("torch", "timm", "transformers", "sentence_transformers", "open_clip", "onnx", "sklearn", "librosa")


def modules() -> dict[str, Path]:
    files = [ROOT / "cli.py", *(ROOT / "indexer").rglob("*.py"), *(ROOT / "retrieval").rglob("*.py")]
    names = {}
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return names


def imports(tree: ast.AST, *, lazy: bool) -> Iterator[str]:
    """Dotted names imported; with `lazy` also those inside functions, never those for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, lazy=lazy)


def local_imports(*, lazy: bool) -> dict[str, set[str]]:
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, file in known.items():
        found = set(imports(ast.parse(file.read_text()), lazy=lazy))
        targets = {one if one in known else one.rpartition(".")[0] for one in found}
        graph[name] = {target for target in targets if target in known and target != name}
    return graph


def test_no_cycle() -> None:
    graph = local_imports(lazy=False)
    assert len(graph) > 20
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports go round: {' -> '.join(error.args[1])}")


def test_imports_go_one_way() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in local_imports(lazy=True).items()
        for target in targets
        if LAYERS[target.split(".")[0]] > LAYERS[name.split(".")[0]]
    ]
    assert not wrong


def test_leaves_import_nothing_local() -> None:
    graph = local_imports(lazy=True)
    for leaf in ("indexer.types", "indexer.errors", "indexer.fsio"):
        assert not graph[leaf], leaf


def test_indexer_knows_no_model_library() -> None:
    for name, file in modules().items():
        if name.startswith("indexer"):
            found = {one.split(".")[0] for one in imports(ast.parse(file.read_text()), lazy=True)}
            assert not found & {*HEAVY, "onnxruntime", "tokenizers"}, name


def test_only_the_command_line_prints() -> None:
    for name, file in modules().items():
        if name == "cli" or name.startswith(("retrieval.render", "retrieval.commands")):
            continue
        calls = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
        printed = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        allowed = {"indexer.fsio"}  # the hook that fault tests stop at
        assert not printed or name in allowed, name


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return {line.split(".")[0] for line in done.stdout.splitlines()}


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, cli; sys.argv = ['triptych', '--help']\ntry: cli.app()\nexcept SystemExit: pass"
    found = loaded_by(code)
    assert "typer" in found
    assert not found & {*HEAVY, "numpy.random", "faiss", "pyarrow", "onnxruntime", "PIL", "soundfile"}

"""The import rule of the folders, checked on the syntax tree of every file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "storage": {"pipelines", "dicom_node"},
    "pipelines": {
        "storage",
        "dicom_node",
        "sqlalchemy",
        "alembic",
        "pynetdicom",
        "socket",
        "http",
        "urllib",
        "requests",
    },
}


def imported_packages(source: str) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import, wherever it stands, ``importlib.import_module`` included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value.partition(".")[0]


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_folder_imports_none_of_what_it_may_not(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, f"no Python file under {folder}"
    offences = [
        f"{file.relative_to(ROOT)}:{line} imports {package}"
        for file in files
        for line, package in imported_packages(file.read_text(encoding="utf-8"))
        if package in FORBIDDEN[folder]
    ]
    assert not offences, "\n".join(offences)


def test_analyses_never_see_dicom() -> None:
    """Of the pipelines only ``cine`` reads data sets, and ``phantom``, which plays the scanner, writes them."""
    offences = [
        f"{file.relative_to(ROOT)}:{line} imports pydicom"
        for file in sorted((ROOT / "pipelines").rglob("*.py"))
        if file.relative_to(ROOT).parts[1] not in ("cine", "phantom")
        for line, package in imported_packages(file.read_text(encoding="utf-8"))
        if package == "pydicom"
    ]
    assert not offences, "\n".join(offences)


def test_analyses_know_neither_their_training_nor_their_evaluation() -> None:
    """``training`` and ``evaluation`` are above the analyses, and evaluation above training."""
    offences = [
        f"{file.relative_to(ROOT)}:{line} imports pipelines.{folder}"
        for file in sorted((ROOT / "pipelines").rglob("*.py"))
        for line, folder in _folders_of_pipelines(file.read_text(encoding="utf-8"))
        if folder == "evaluation" != file.relative_to(ROOT).parts[1]
        or (folder == "training" and file.relative_to(ROOT).parts[1] not in ("training", "evaluation"))
    ]
    assert not offences, "\n".join(offences)


def test_only_commands_train_and_evaluate() -> None:
    """The running node knows neither ``training`` nor ``evaluation``."""
    offences = [
        f"{file.relative_to(ROOT)}:{line} imports pipelines.{folder}"
        for file in sorted((ROOT / "dicom_node").rglob("*.py"))
        for line, folder in _folders_of_pipelines(file.read_text(encoding="utf-8"))
        if folder in ("training", "evaluation") and file.relative_to(ROOT).parts[1] != "commands"
    ]
    assert not offences, "\n".join(offences)


def test_cards_and_weights_know_no_analysis() -> None:
    """A new architecture or model touches nothing in ``pipelines/models``."""
    offences = [
        f"{file.relative_to(ROOT)}:{line} imports pipelines.{folder}"
        for file in sorted((ROOT / "pipelines" / "models").rglob("*.py"))
        for line, folder in _folders_of_pipelines(file.read_text(encoding="utf-8"))
        if folder not in ("models", "errors", "folders")
    ]
    assert not offences, "\n".join(offences)


def _folders_of_pipelines(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module] if node.module != "pipelines" else [f"pipelines.{name.name}" for name in node.names]
        for name in names:
            if name.startswith("pipelines."):
                yield node.lineno, name.split(".")[1]


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("import storage.ledger", "storage"),
        ("def f():\n    from dicom_node.config import Config", "dicom_node"),
        ("import importlib\nimportlib.import_module('storage.files')", "storage"),
        ("__import__('storage')", "storage"),
    ],
)
def test_the_check_sees_every_way_to_import(source: str, package: str) -> None:
    assert package in {found for _, found in imported_packages(source)}


def test_the_check_allows_relative_imports() -> None:
    assert list(imported_packages("from . import storage")) == []

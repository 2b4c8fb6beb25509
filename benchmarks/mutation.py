"""Which small changes of some modules do their tests not notice?

    make mutation MUTATE=storage/leases.py MUTATION_TESTS=tests/storage/test_leases.py MUTATION_ARGS="--sample 40"

Functions are changed by mutmut, one place at a time. With ``--constants`` it is the numbers outside functions, which
mutmut leaves alone: thresholds, densities, limits, each made half as large again. Each changed copy is put to the tests
that are named; what they do not notice is listed, as a difference to the source. Not all of it matters. A sample is
drawn with a fixed seed, so that anyone gets the same.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "storage",
    "pipelines",
    "dicom_node",
    "tests",
    "benchmarks",
    "docs",
    "pyproject.toml",
    "README.md",
    "config.yaml",
)
FACTOR = 1.5
TIMEOUT_S = 300
KILLED, UNREACHED = 1, 33
OUTCOMES = {0: "survived", KILLED: "killed", UNREACHED: "no test reaches it"}
"""By exit code of mutmut's runner and of pytest."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run modules against their tests; prints the score of each and what survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", help="paths of modules of one package, from the root of the repository")
    parser.add_argument("--tests", nargs="+", required=True, help="files or ids of tests")
    parser.add_argument("--sample", type=int, help="how many changes to try; all unless given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--constants", action="store_true", help="change numbers outside functions")
    parser.add_argument("--deselect", default="postgresql", help="tests of these words (pytest -k) are left out")
    given = parser.parse_args(arguments)
    tree = _copy(given.modules)
    chosen = ["-p", "no:randomly", "-p", "no:cacheprovider", "-m", "not slow and not peers and not real_data"]
    chosen += ["-k", f"not ({given.deselect})"]
    try_changes = _constants if given.constants else _functions
    tried = try_changes(tree, given.modules, chosen, given.tests, given.sample, given.seed)
    print(_report(tree, tried))
    return 0


@dataclass(frozen=True, slots=True)
class Tried:
    """One change and what became of it."""

    module: str
    name: str
    outcome: str
    difference: str


def _copy(modules: Sequence[str]) -> Path:
    tree = ROOT / "build" / "mutation" / modules[0].removesuffix(".py").replace("/", ".")
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *COPIED]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["xargs", "-0", "cp", "--parents", "-t", str(tree)], cwd=ROOT, input=listed, check=True)
    return tree


def _python(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run in the copy; what it says is kept in ``log`` there."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "build" / "mutation" / "tool"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, *arguments]
    ended = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    with (tree / "log").open("a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(arguments)}\n{ended.stdout}{ended.stderr}\n")
    return ended


def _functions(
    tree: Path, modules: Sequence[str], chosen: Sequence[str], tests: Sequence[str], sample: int | None, seed: int
) -> list[Tried]:
    """Changes within functions, made and run by mutmut."""
    settings = {
        "source_paths": sorted({f"{module.split('/', maxsplit=1)[0]}/" for module in modules}),
        "only_mutate": list(modules),
        "also_copy": [name for name in COPIED if (tree / name).exists()],
        "pytest_add_cli_args": list(chosen),
        "pytest_add_cli_args_test_selection": list(tests),
        "timeout_constant": 60.0,
        "use_git_change_detection": False,
    }
    with (tree / "pyproject.toml").open("a") as file:
        file.write("\n[tool.mutmut]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    # A name that nothing has: only the changes are made, and it is found out which tests reach which function.
    _python(tree, "-m", "mutmut", "run", "--max-children", "1", "nothing")
    stats = tree / "mutants" / "mutmut-stats.json"
    names = sorted((module, name) for module in modules for name in _exit_codes(tree, module))
    if not names or not stats.is_file():
        raise SystemExit(f"the tests fail as they are, or nothing can be changed: see {tree / 'log'}")
    drawn = names if sample is None else sorted(random.Random(seed).sample(names, min(sample, len(names))))
    # mutmut fails over names that no test reaches.
    reached = set(json.loads(stats.read_text())["tests_by_mangled_function_name"])
    runnable = [name for _, name in drawn if name.rpartition("__mutmut_")[0] in reached]
    if runnable:
        _python(tree, "-m", "mutmut", "run", "--max-children", "1", *runnable)
    codes = {module: _exit_codes(tree, module) for module in modules}
    tried = []
    for module, name in drawn:
        code = codes[module][name] if name in runnable else UNREACHED
        shown = _python(tree, "-m", "mutmut", "show", name).stdout if code in OUTCOMES and code != KILLED else ""
        lines = [line for line in shown.splitlines() if line[:1] in ("+", "-") and line[:3] not in ("+++", "---")]
        tried.append(Tried(module, name, _outcome(code), "\n".join(lines)))
    return tried


def _exit_codes(tree: Path, module: str) -> dict[str, int | None]:
    file = tree / "mutants" / f"{module}.meta"
    return dict(json.loads(file.read_text())["exit_code_by_key"]) if file.is_file() else {}


def _outcome(code: int | None) -> str:
    # All other codes are time-outs and crashes, which are noticed too.
    return "not run" if code is None else OUTCOMES.get(code, "killed")


def _constants(
    tree: Path, modules: Sequence[str], chosen: Sequence[str], tests: Sequence[str], sample: int | None, seed: int
) -> list[Tried]:
    """Numbers outside functions, each made half as large again."""
    pytest = ("-m", "pytest", "-q", "-x", "-n", "0", "--tb=no", f"--timeout={TIMEOUT_S}", *chosen, *tests)
    if _python(tree, *pytest).returncode != 0:
        raise SystemExit(f"the tests fail as they are: see {tree / 'log'}")
    places = [(module, *place) for module in modules for place in _numbers((tree / module).read_text(encoding="utf-8"))]
    drawn = places if sample is None else random.Random(seed).sample(places, min(sample, len(places)))
    tried = []
    for module, line, begin, end, value in sorted(drawn):
        file = tree / module
        source = file.read_text(encoding="utf-8")
        lines = source.splitlines(keepends=True)
        # ast counts in bytes.
        was = lines[line - 1].encode()
        changed = was[:begin] + repr(_larger(value)).encode() + was[end:]
        file.write_text("".join([*lines[: line - 1], changed.decode(), *lines[line:]]), encoding="utf-8")
        code = _python(tree, *pytest).returncode
        file.write_text(source, encoding="utf-8")
        tried.append(
            Tried(
                module,
                f"{module}:{line}:{begin}",
                _outcome(code),
                f"-{was.decode().rstrip()}\n+{changed.decode().rstrip()}",
            )
        )
    return tried


def _larger(value: float) -> float:
    if isinstance(value, int):
        return value + max(1, value // 2)
    return value * FACTOR if value else 1.0


def _numbers(source: str) -> list[tuple[int, int, int, float]]:
    """Numbers outside functions: line, first and last column in bytes, value."""
    found = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.Constant) and type(child.value) in (int, float) and child.end_col_offset:
                found.append((child.lineno, child.col_offset, child.end_col_offset, child.value))
            visit(child)

    visit(ast.parse(source))
    return found


def _report(tree: Path, tried: Sequence[Tried]) -> str:
    lines = []
    for one in tried:
        if one.outcome != "killed":
            lines += [f"{one.outcome}: {one.name}", one.difference]
    for module in sorted({one.module for one in tried}):
        outcomes = Counter(one.outcome for one in tried if one.module == module)
        others = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if outcome != "killed")
        lines.append(f"{module}: {outcomes['killed']} of {outcomes.total()} killed{f', {others}' if others else ''}")
    lines.append(f"all: {sum(one.outcome == 'killed' for one in tried)} of {len(tried)} killed")
    (tree / "report.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Analysis packages: what a declaration must say, and how packages are found."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipelines.analysis import Findings, analysis
from pipelines.errors import AnalysisSetupError, Refusal, RefusalReason
from pipelines.package import AnalysisPackage, Source, package_names, packages, steps_of, validated
from pipelines.study import findings_of
from pipelines.ventricular_function.package import PACKAGE


@dataclass(frozen=True)
class Apple:
    weight_g: float


@dataclass(frozen=True)
class Pear:
    weight_g: float


@analysis
def apple() -> Apple:
    return Apple(150.0)


@analysis
def pear(apple: Apple) -> Pear:
    return Pear(apple.weight_g)


@analysis
def another_apple() -> Apple:
    return Apple(170.0)


FRUIT = AnalysisPackage("fruit", "fruit", "1.0.0", Apple, (apple,), frozenset({Source.SHORT_AXIS_CINE}), series_block=7)


def test_ventricular_function_is_found_with_its_steps() -> None:
    assert package_names()[-1] == "ventricular_function"
    assert packages()["ventricular_function"] is PACKAGE
    assert PACKAGE.series_block == 0
    assert steps_of(PACKAGE)[:2] == ("short_axis", "segmentation")
    assert steps_of(PACKAGE)[-1] == "ventricular_function"


def test_steps_of_other_packages_are_found_by_type() -> None:
    both = replace(FRUIT, name="pears", title="pears", gives=Pear, steps=(pear,), series_block=8)
    found = validated([both, FRUIT])
    assert list(found) == ["fruit", "pears"]
    assert steps_of(both, found) == ("apple", "pear")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "Two Words"}, "name must match"),
        ({"title": " "}, "1 to 31 characters"),
        ({"version": "1"}, "major.minor.patch"),
        ({"gives": Pear}, "none of its steps gives Pear"),
        ({"series_block": -1}, "series_block -1"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"maximum_attempts": 0}, "maximum_attempts"),
    ],
)
def test_an_impossible_declaration_is_told(changes: dict[str, object], says: str) -> None:
    with pytest.raises(AnalysisSetupError, match=says):
        replace(FRUIT, **changes)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (replace(FRUIT, series_block=8), "the name 'fruit'"),
        (replace(FRUIT, name="pears", gives=Pear, steps=(pear,)), "fruit and pears both claim the series block 7"),
        (replace(FRUIT, name="pome", steps=(another_apple,), series_block=8), "both claim the type Apple"),
    ],
)
def test_packages_at_odds_are_told(other: AnalysisPackage, says: str) -> None:
    with pytest.raises(AnalysisSetupError, match=says):
        validated([FRUIT, other])


def test_a_need_that_nothing_gives_is_told() -> None:
    lonely = replace(FRUIT, name="pears", gives=Pear, steps=(pear,))
    with pytest.raises(AnalysisSetupError, match="package pears: pear needs Apple"):
        validated([lonely])


@pytest.mark.parametrize(
    ("declaration", "says"),
    [
        ("import no_such_module_at_all", "package odd cannot be imported from .*odd/package.py: ModuleNotFoundError"),
        ("PACKAGE = 3", "declares no PACKAGE"),
        (
            "from dataclasses import replace\nfrom pipelines.ventricular_function.package import PACKAGE as OTHER\n"
            "PACKAGE = replace(OTHER, name='even')",
            "package even: its folder is named odd",
        ),
        (
            "from dataclasses import replace\nfrom pipelines.ventricular_function.package import PACKAGE as OTHER\n"
            "PACKAGE = replace(OTHER, name='odd')",
            "both claim the series block 0",
        ),
    ],
)
def test_a_folder_on_the_path_adds_a_package_or_says_what_is_wrong(tmp_path: Path, declaration: str, says: str) -> None:
    folder = tmp_path / "pipelines" / "odd"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "package.py").write_text(declaration)
    script = "from pipelines.package import *; assert 'odd' in package_names(); packages()"
    ended = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert re.search(says, ended.stderr.splitlines()[-1])


def test_what_a_package_can_do_without_is_no_cause_of_its_refusal() -> None:
    package = packages()["ventricular_function"]
    long_axis = Refusal("long_axis_views", RefusalReason.NOT_SUITABLE, "No long axis.")
    short_axis = Refusal("short_axis", RefusalReason.NO_SHORT_AXIS_STACK, "No short axis.")
    found = findings_of(package, Findings({}, (long_axis, short_axis)))
    assert found.causes == (short_axis,)
    assert findings_of(packages()["long_axis"], Findings({}, (long_axis,))).causes == (long_axis,)

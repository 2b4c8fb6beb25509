"""``dicom-node analyses``: the analysis packages there are, and what is known of them."""

from __future__ import annotations

from typing import Any

from dicom_node.commands.terminal import JsonFlag, print_json, table
from dicom_node.errors import ConfigurationError

__all__ = ["analyses"]


def analyses(as_json: JsonFlag = False) -> None:
    """List the analyses that a route can name: what they give and need, effort, models, series numbers."""
    from dicom_node.results.encoders import encoder_of
    from pipelines.errors import AnalysisSetupError
    from pipelines.package import SERIES_PER_BLOCK, AnalysisPackage, packages, steps_of

    def described(package: AnalysisPackage) -> dict[str, Any]:
        encoder_of(package)
        first = SERIES_PER_BLOCK * package.series_block
        return {
            "name": package.name,
            "title": package.title,
            "version": package.version,
            "gives": package.gives.__name__,
            "needs": sorted(source.value for source in package.sources),
            "steps": steps_of(package),
            "effort": {
                "timeout_s": package.timeout_s,
                "maximum_attempts": package.maximum_attempts,
                "slot": package.slot.value,
                "priority": package.priority,
            },
            "models": package.models,
            "series_block": package.series_block,
            "series_numbers": f"base + {first} to {first + SERIES_PER_BLOCK - 1}",
        }

    try:
        found = [described(package) for package in packages().values()]
    except AnalysisSetupError as error:
        raise ConfigurationError(str(error), remedy="mend or remove the package") from error
    if as_json:
        print_json(found)
        return
    table(
        "Analyses",
        ["name!", "gives", "needs", "effort", "models", "series block>"],
        (
            (
                one["name"],
                one["gives"],
                ", ".join(one["needs"]),
                f"{one['effort']['timeout_s']:g} s, {one['effort']['slot']}, priority {one['effort']['priority']:+d}",
                "\n".join(one["models"]) or "none",
                one["series_block"],
            )
            for one in found
        ),
        caption="a route names them under `analyses`",
    )

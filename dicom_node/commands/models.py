"""``dicom-node models``: the trained networks and what is known of them."""

from __future__ import annotations

from dicom_node.commands.terminal import JsonFlag, print_json, table

__all__ = ["models"]


def models(as_json: JsonFlag = False) -> None:
    """List the trained networks: task, version, training data, licence, figures and limits."""
    from pipelines.models.registry import list_models

    cards = list_models()
    if as_json:
        print_json([card.model_dump(mode="json") for card in cards])
        return
    table(
        "Models",
        ["name", "version", "task", "licence", "weights"],
        ([card.name, card.version, card.task, card.licence, card.weights_sha256[:12]] for card in cards),
        caption="dicom-node models --json prints the whole cards",
    )

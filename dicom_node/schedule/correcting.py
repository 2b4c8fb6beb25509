"""Which series of a study are segmentations that a person corrected, for the jobs that analyse the study again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from pipelines.cine.facts import SEGMENTATION_CLASSES, InstanceFacts
from pipelines.package import needs, packages
from pipelines.segmentation.labels import CineSegmentation
from storage.jobs import RoutedJob, StudyContents
from storage.ledger import Ledger
from storage.overview import result_overviews

__all__ = ["correcting_series", "with_corrections"]

_log = structlog.get_logger(__name__)


def correcting_series(ledger: Ledger, contents: StudyContents) -> tuple[str, ...]:
    """Series that hold a correction of one of this node's SEG.

    One is recognised by what it segments, and by what its frames refer to: images of the study or key-phase images of
    this node. What this node made itself, and a PACS sent back, is none.
    """
    facts = {
        series.series_instance_uid: [InstanceFacts.from_json(one) for one in series.facts] for series in contents.series
    }
    if not any(one.sop_class_uid in SEGMENTATION_CLASSES for own in facts.values() for one in own):
        return ()
    # Imported here: few studies hold a segmentation.
    from dicom_node.execute.corrected import CORRECTABLE, KEY_PHASES

    results = {one.sop_instance_uid: one.role for one in result_overviews(ledger, contents.study_instance_uid)}
    if not results:
        return ()
    codes = {f"{scheme} {value}" for scheme, value in CORRECTABLE}
    images = {one.sop_instance_uid for own in facts.values() for one in own if one.planes and not one.own_output}
    images |= {uid for uid, role in results.items() if role in KEY_PHASES}
    found = []
    for series, own in facts.items():
        segs = [one for one in own if one.sop_class_uid in SEGMENTATION_CLASSES and one.sop_instance_uid not in results]
        if any(images.intersection(one.refers_to) and codes.intersection(one.segmented) for one in segs):
            found.append(series)
        elif segs:
            _log.info(
                "segmentation left alone: it corrects none of this node's",
                study_instance_uid=contents.study_instance_uid,
                series_instance_uid=series,
            )
    return tuple(found)


def with_corrections(jobs: Sequence[RoutedJob], series: Sequence[str]) -> list[RoutedJob]:
    """The jobs, with corrected segmentations among the input of those that need a segmentation."""
    return [
        replace(one, series_instance_uids=(*one.series_instance_uids, *series))
        if needs(packages()[one.package], CineSegmentation)
        else one
        for one in jobs
    ]

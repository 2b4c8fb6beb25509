"""What other systems say of results of this node: rejection notes and assessment documents are verdicts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

import structlog

from dicom_node.config import Configuration
from dicom_node.instance_files import readable
from pipelines.cine.elements import DAMAGE, of_storage
from pipelines.cine.facts import InstanceFacts, is_structured_report
from pipelines.cine.reading import read_object
from storage.assessments import VerdictReceived, note_verdicts
from storage.holdings import held_instances
from storage.jobs import StudyContents
from storage.ledger import Ledger
from storage.overview import result_overviews
from storage.schema import AssessmentResult

__all__ = ["note_verdicts_received"]

_log = structlog.get_logger(__name__)


def note_verdicts_received(
    ledger: Ledger, configuration: Configuration, contents: StudyContents, *, now: dt.datetime
) -> int:
    """Keep, once for each object and package, what objects of other systems say of results of this node.

    What this node made itself, and an archive passes on, judges nothing.

    Returns
    -------
    int
        How many verdicts were new.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    judging = [
        (series.calling_ae_title, one)
        for series in contents.series
        for one in map(InstanceFacts.from_json, series.facts)
        if not one.own_output and one.refers_to and (one.rejects or is_structured_report(one.sop_class_uid))
    ]
    if not judging:
        return 0
    received = [
        VerdictReceived(
            AssessmentResult.REJECTED, sender, f"rejection note {one.sop_instance_uid}: {one.rejects}", one.refers_to
        )
        for sender, one in judging
        if one.rejects
    ]
    received += _assessed(ledger, configuration, contents, [one for one in judging if not one[1].rejects])
    if not received:
        return 0
    return note_verdicts(
        ledger, contents.study_instance_uid, received, now=now, receivers=configuration.results.message_receivers
    )


def _assessed(
    ledger: Ledger,
    configuration: Configuration,
    contents: StudyContents,
    documents: Sequence[tuple[str, InstanceFacts]],
) -> Iterator[VerdictReceived]:
    """Verdicts of the structured reports that refer to results of this node."""
    own = {one.sop_instance_uid for one in result_overviews(ledger, contents.study_instance_uid)}
    senders = {one.sop_instance_uid: sender for sender, one in documents if own.intersection(one.refers_to)}
    if not senders:
        return
    # Imported here: few studies hold such a document.
    from dicom_node.schedule.assessment_documents import SEVERITY, assessment_document

    with ledger.reading() as session:
        held = held_instances(session, sop_instance_uids=senders)
    for one in held:
        uid = one.sop_instance_uid
        try:
            document = assessment_document(
                read_object(readable(configuration, one.path)), configuration.results.assessment_codes
            )
        except DAMAGE as error:
            if of_storage(error):
                raise
            _log.warning("report left alone: it is damaged", sop_instance_uid=uid, error=type(error).__name__)
            continue
        if document is None:
            _log.info("report left alone: no code of it judges results of this node", sop_instance_uid=uid)
            continue
        by_verdict: dict[tuple[AssessmentResult, str], list[str]] = {}
        for judged, verdict in document.judged.items():
            by_verdict.setdefault(verdict, []).append(judged)
        by = document.observer or senders[uid]
        # Of several on one package the latest counts, and that is to be the worst.
        for (result, meaning), objects in sorted(by_verdict.items(), key=lambda one: SEVERITY.index(one[0][0])):
            yield VerdictReceived(result, by, f"assessment {uid}: {meaning}", tuple(objects))

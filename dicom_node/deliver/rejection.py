"""Rejects results that became void: writes the rejection notes and queues them."""

from __future__ import annotations

import datetime as dt
import enum
import errno
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config import Configuration, DestinationProfile
from dicom_node.deliver.study_report import patient_of
from dicom_node.errors import raised_at
from dicom_node.implementation import SOFTWARE_VERSION
from dicom_node.network.file_meta import decode_file_meta
from dicom_node.results.header import MANUFACTURER
from dicom_node.results.identity import CarriedIdentity
from dicom_node.results.part10 import part10_file
from dicom_node.results.rejection import (
    REJECTION_SERIES,
    SERIES_DESCRIPTION,
    RejectedObject,
    RejectionReason,
    rejection_note,
)
from dicom_node.results.roles import FRONT_PAGE
from pipelines.cine.elements import DAMAGE
from pipelines.cine.headers import OWN_MODEL_NAME
from storage.bucket import BucketError
from storage.files import RESULTS, InstanceFiles
from storage.holdings import held_series
from storage.identity import is_bound
from storage.inputs import files_read
from storage.jobs import SCHEDULER, ResultRecord
from storage.ledger import Ledger
from storage.rejection import (
    REJECTION_ROLE,
    VoidResult,
    VoidSet,
    corrected_sets,
    is_under_way,
    left_sets,
    reject,
    superseded_sets,
    taken_over_sets,
)

__all__ = ["UNDECIDED", "Withdraw", "reject_set", "reject_superseded"]

_log = structlog.get_logger(__name__)


UNDECIDED = (
    "not sent by itself: whether the patient of this report was corrected since cannot be told, as neither the later "
    "results nor the images can be read. Send it again to have the report withdrawn; give it up if the patient is the "
    "same"
)
"""Why a withdrawal waits for a person, and what follows from either answer."""


class Withdraw(enum.Enum):
    """Which receivers of messages are told that a report must not be used any more."""

    NEVER = "never"
    """Nobody: it still holds."""
    ALWAYS = "always"
    """All: nothing has come in its place, or the report of another route, which has identifiers of its own."""
    OF_ANOTHER_PATIENT = "of another patient"
    """Those to whom a later version does not come under the same identifiers, as its patient was corrected."""


def reject_superseded(ledger: Ledger, files: InstanceFiles, configuration: Configuration, now: dt.datetime) -> int:
    """Reject the results in whose place others have come; returns how many sets there were.

    Of an earlier version where a later one has results of its own, of a route that would have stood back where the
    other route has analysed the study since, and of one that a later version was not taken by any more. And those of a
    study that was corrected and that their route does not take as it is now, though no others come in their place.
    """
    rejected = 0
    for void in superseded_sets(ledger):
        sentence = (
            f"Superseded: version {void.study_version} of this study, with images that came later or were corrected, "
            "has results of its own. Do not use those listed here."
        )
        reason = f"superseded by job {void.job_id}, version {void.study_version}"
        rejected += _rejected(
            ledger, files, configuration, void, sentence, reason, now, withdraw=Withdraw.OF_ANOTHER_PATIENT
        )
    for void in taken_over_sets(ledger, _taking_over(configuration)):
        sentence = (
            "Superseded: this study was analysed again, with more analyses, when it was known why the patient was "
            "examined. What is listed here is among those results as well; do not use it beside them."
        )
        reason = f"superseded by job {void.job_id}, of a route that this one stands back for"
        rejected += _rejected(ledger, files, configuration, void, sentence, reason, now, withdraw=Withdraw.ALWAYS)
    for void in left_sets(ledger, _left(configuration)):
        sentence = (
            f"Superseded: version {void.study_version} of this study, with images that came later, was analysed "
            "without what had asked for the results listed here, such as an order that was cancelled. Do not use them."
        )
        reason = (
            f"superseded by job {void.job_id}, version {void.study_version}, of a route that stands back for this one"
        )
        rejected += _rejected(ledger, files, configuration, void, sentence, reason, now, withdraw=Withdraw.ALWAYS)
    for void in corrected_sets(ledger):
        sentence = (
            f"Void: this study was corrected, and as it is since (version {void.study_version}) it is not analysed in "
            "this way any more. What is listed here was made of what was held before, perhaps under another patient. "
            "Do not use it."
        )
        reason = f"the study was corrected, and the route does not take version {void.study_version}"
        rejected += _rejected(ledger, files, configuration, void, sentence, reason, now, withdraw=Withdraw.ALWAYS)
    return rejected


def _taking_over(configuration: Configuration) -> dict[str, frozenset[str]]:
    """Of each route, those that it stands back for and whose results go wherever its own do."""
    routes = configuration.routes
    found = {
        name: frozenset(
            other
            for other in route.leaves_to
            if other in routes and set(route.destinations) <= set(routes[other].destinations)
        )
        for name, route in routes.items()
    }
    return {name: others for name, others in found.items() if others}


def _left(configuration: Configuration) -> dict[str, frozenset[str]]:
    """Of each route, those that stand back for it and whose results go wherever its own do."""
    routes = configuration.routes
    found = {
        name: frozenset(
            other
            for other, back in routes.items()
            if name in back.leaves_to and set(route.destinations) <= set(back.destinations)
        )
        for name, route in routes.items()
    }
    return {name: others for name, others in found.items() if others}


def _rejected(
    ledger: Ledger,
    files: InstanceFiles,
    configuration: Configuration,
    void: VoidSet,
    sentence: str,
    reason: str,
    now: dt.datetime,
    *,
    withdraw: Withdraw,
) -> bool:
    """Reject one set of what others have come in the place of; what cannot be done now, the next look finds again."""
    try:
        return reject_set(
            ledger,
            files,
            configuration,
            void,
            RejectionReason.PATIENT_SAFETY,
            sentence=sentence,
            reason=reason,
            by=SCHEDULER,
            now=now,
            withdraw=withdraw,
        )
    except OSError as error:
        _log.error(
            "results not rejected yet: storage cannot be read or written",
            study_instance_uid=void.study_instance_uid,
            error=error.strerror,
        )
    except SQLAlchemyError:
        raise
    except Exception as error:  # noqa: BLE001 - one study must not hold up the others, whatever its results hold
        _log.error("results not rejected", study_instance_uid=void.study_instance_uid, at=raised_at(error))
    return False


def reject_set(
    ledger: Ledger,
    files: InstanceFiles,
    configuration: Configuration,
    void: VoidSet,
    why: RejectionReason | None,
    *,
    sentence: str,
    reason: str,
    by: str,
    now: dt.datetime,
    withdraw: Withdraw = Withdraw.NEVER,
) -> bool:
    """Reject one set.

    Parameters
    ----------
    why
        Title of the notes; ``None`` sends none.
    sentence
        For those who read the notes.
    reason
        For the record.
    withdraw
        Which receivers of messages are told that what they know of these results must not be used.

    Returns
    -------
    bool
        False, and nothing done, when one of the results has come under way to a destination meanwhile.

    Raises
    ------
    OSError
        Storage cannot be read or written at present; nothing done.
    """
    if is_under_way(ledger, void):
        # A note whose file is written, and that nothing names then, would be left over.
        return False
    told = _Told() if why is None else _notes(ledger, files, configuration, void, why, sentence, withdraw=withdraw)
    notes = told.notes
    if not reject(
        ledger,
        void,
        notes,
        reason=reason,
        by=by,
        now=now,
        undecided=told.undecided,
        not_told=told.not_told,
    ):
        return False
    _log.info(
        "results rejected",
        study_instance_uid=void.study_instance_uid,
        results=len(void.results),
        notes=len(notes),
        reason=reason,
    )
    return True


@dataclass(frozen=True, slots=True)
class _Told:
    """What destinations are told of a set."""

    notes: list[ResultRecord] = field(default_factory=list)
    undecided: dict[tuple[str, str], str] = field(default_factory=dict)
    """As :func:`storage.rejection.reject` takes it."""
    not_told: list[str] = field(default_factory=list)
    """Destinations for which no note can be written."""


def _notes(
    ledger: Ledger,
    files: InstanceFiles,
    configuration: Configuration,
    void: VoidSet,
    why: RejectionReason,
    sentence: str,
    *,
    withdraw: Withdraw,
) -> _Told:
    """One note for all destinations that have the same of the set."""
    destinations = configuration.results.destinations
    told = {name: profile for name, profile in destinations.items() if profile.rejection_notes}
    # A receiver of messages gets one for each patient that the set names: a note has the identity of one of them.
    held: dict[tuple[str, tuple[str, str] | None], list[VoidResult]] = {}
    undecided: set[tuple[int, str]] = set()
    """Results by id, and their destinations."""
    for one in void.results:
        for destination in one.arrived_at & set(told):
            if told[destination].takes_objects:
                held.setdefault((destination, None), []).append(one)
                continue
            withdrawn = _withdrawn_at(ledger, files, told[destination], one, void, withdraw)
            if withdrawn is not False:
                held.setdefault((destination, _patient(_as_results_name_it(ledger, files, [one]))), []).append(one)
            if withdrawn is None:
                undecided.add((one.id, destination))
    alike: dict[tuple[int, ...], tuple[list[VoidResult], list[str]]] = {}
    for (destination, _), results in held.items():
        alike.setdefault(tuple(one.id for one in results), (results, []))[1].append(destination)
    found = _Told()
    for results, names in alike.values():
        reference = _as_results_name_it(ledger, files, results)
        if reference is None:
            _log.error(
                "results cannot be rejected: their files and the images that they were made of are gone or damaged, "
                "and the ledger does not say of which patient they are; reject them at the destination",
                study_instance_uid=void.study_instance_uid,
                destinations=names,
            )
            found.not_told.extend(names)
            continue
        note = rejection_note(
            reference,
            [RejectedObject(one.sop_class_uid, one.sop_instance_uid, one.series_instance_uid) for one in results],
            why,
            sentence=sentence,
            series_number=configuration.results.series_number_base + REJECTION_SERIES,
            at=void.since,
        )
        begin = decode_file_meta(note.content).length
        file = files.store(
            note.content[begin:],
            file_meta=note.content[:begin],
            transfer_syntax_uid=ExplicitVRLittleEndian,
            folder=RESULTS,
        )
        found.undecided.update(
            ((note.sop_instance_uid, name), UNDECIDED)
            for name in names
            if any((one.id, name) in undecided for one in results)
        )
        found.notes.append(
            ResultRecord(
                role=REJECTION_ROLE,
                sop_class_uid=KeyObjectSelectionDocumentStorage,
                sop_instance_uid=note.sop_instance_uid,
                series_instance_uid=note.series_instance_uid,
                series_description=SERIES_DESCRIPTION,
                path=file.path,
                digest=file.digest,
                size=file.size,
                destinations=tuple(sorted(names)),
            )
        )
    return found


def _withdrawn_at(
    ledger: Ledger,
    files: InstanceFiles,
    receiver: DestinationProfile,
    result: VoidResult,
    void: VoidSet,
    withdraw: Withdraw,
) -> bool | None:
    """Whether a receiver of messages has to be told: of front pages alone, as it knows no objects.

    ``None`` where that hangs on who the patient is now, and nothing that says it can be read.
    """
    if result.role != FRONT_PAGE.value or withdraw is Withdraw.NEVER:
        return False
    if withdraw is Withdraw.ALWAYS:
        return True
    # A FHIR server has one set of resources for study and route: what takes their place names the other patient. An
    # HL7 receiver knows a report by OBR-3, which the patient is part of (``oru.filler_number``).
    if receiver.hl7 is None:
        return False
    instead = _patient(_reference(ledger, files, void.instead))
    if instead is None:
        # Results name the patient as the images do.
        images = [one.path for one in held_series(ledger, void.study_instance_uid)]
        instead = _patient(_reference(ledger, files, images))
    if instead is None:
        return None
    return _patient(_as_results_name_it(ledger, files, [result])) != instead


def _patient(header: Dataset | None) -> tuple[str, str] | None:
    return None if header is None else patient_of(header)


def _as_results_name_it(ledger: Ledger, files: InstanceFiles, results: Sequence[VoidResult]) -> Dataset | None:
    """A header with patient, study and equipment as they stand in some results of one study.

    Where no file of these is left, as after retention, patient and study are those of the images that a job of theirs
    read, whatever is held of the study since: the ledger keeps no patient. ``None`` where these are gone as well.

    Raises
    ------
    OSError
        Storage is away.
    """
    header = _reference(ledger, files, [one.path for one in results])
    if header is not None:
        return header
    jobs = dict.fromkeys(one.job_id for one in results)
    image = _reference(ledger, files, [path for job_id in jobs for path in files_read(ledger, job_id)])
    if image is None:
        return None
    made = Dataset()
    CarriedIdentity.of(image).apply(made)
    made.Manufacturer, made.ManufacturerModelName = MANUFACTURER, OWN_MODEL_NAME
    made.SoftwareVersions = SOFTWARE_VERSION
    if "TimezoneOffsetFromUTC" in image:
        made.TimezoneOffsetFromUTC = image.TimezoneOffsetFromUTC
    # Read back from bytes, as a result is.
    made.SOPClassUID, made.SOPInstanceUID = KeyObjectSelectionDocumentStorage, results[0].sop_instance_uid
    return dcmread(io.BytesIO(part10_file(made)))


def _reference(ledger: Ledger, files: InstanceFiles, paths: Sequence[str]) -> Dataset | None:
    """The header of the first of some files that can be read; paths relative to the storage directory.

    Raises
    ------
    OSError
        None can be read because storage is away: they may be there another time.
    """
    for path in paths:
        try:
            reference = dcmread(files.readable(path), stop_before_pixels=True)
        except BucketError:
            raise
        except DAMAGE:
            continue
        if "StudyInstanceUID" in reference:
            return reference
    if not is_bound(ledger, files):
        raise FileNotFoundError(errno.ENOENT, "the storage directory is not there")
    return None

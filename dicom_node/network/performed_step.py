"""Modality Performed Procedure Step as SCP (PS3.4 annex F): when a scanner says that it is done, and with what.

Kept is what tells completeness: state, studies, series and images; nothing of the patient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid
from pynetdicom import evt
from pynetdicom.dimse_primitives import N_CREATE, N_SET

from dicom_node.errors import classify
from dicom_node.network.identity import is_uid
from dicom_node.network.sop_classes import ModalityPerformedProcedureStep
from dicom_node.network.typed import request_of
from storage.ledger import Ledger, utc_now
from storage.performed_steps import StepChange, StepOutcome, change_step, create_step
from storage.schema import StepState

__all__ = ["PerformedStepService"]

_log = structlog.get_logger(__name__)

_SUCCESS, _INVALID_VALUE, _PROCESSING_FAILURE, _DUPLICATE = 0x0000, 0x0106, 0x0110, 0x0111
_NO_SUCH_INSTANCE, _NO_SUCH_CLASS, _MISSING, _MISSING_VALUE = 0x0112, 0x0118, 0x0120, 0x0121
_RESOURCE_LIMITATION = 0x0213
_MAY_NO_LONGER_BE_UPDATED = 0xA710
"""Error ID of a change to an ended step (PS3.4 F.7.2.2.4)."""

_REQUIRED = (
    "ScheduledStepAttributesSequence",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "PerformedProcedureStepStatus",
    "Modality",
)
"""Type 1 for the SCU at N-CREATE (PS3.4 table F.7.2-1)."""
_REFERENCES = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")

Answer = tuple[int | Dataset, Dataset | None]


class _RefusedError(Exception):
    """An attribute list that is not taken."""

    def __init__(self, status: int, comment: str, error_id: int | None = None) -> None:
        self.status, self.comment, self.error_id = status, comment, error_id
        super().__init__(comment)


@dataclass(frozen=True, slots=True)
class PerformedStepService:
    """Handles N-CREATE and N-SET requests."""

    ledger: Ledger

    def create(self, event: evt.Event) -> Answer:
        """Handle N-CREATE: a step begins."""
        try:
            request = request_of(event, N_CREATE)
            _check_class(request.AffectedSOPClassUID, event)
            attributes = _attributes(event, "attribute_list")
            for keyword in _REQUIRED:
                _value(attributes, keyword)
            if _value(attributes, "PerformedProcedureStepStatus") != StepState.IN_PROGRESS.value:
                raise _RefusedError(_INVALID_VALUE, "PerformedProcedureStepStatus must be IN PROGRESS")
            studies = [_uid(item, "StudyInstanceUID") for item in attributes.ScheduledStepAttributesSequence]
            uid = str(request.AffectedSOPInstanceUID or generate_uid(prefix=None))
            if not is_uid(uid):
                raise _RefusedError(_INVALID_VALUE, "the SOP Instance UID is none")
            made = _made(attributes) or {}
            title = event.assoc.requestor.ae_title.strip()
            if not create_step(
                self.ledger,
                sop_instance_uid=uid,
                calling_ae_title=title,
                study_instance_uids=studies,
                made=made,
                now=utc_now(),
            ):
                raise _RefusedError(_DUPLICATE, "there is a step of this UID")
            _log.info("performed step begun", sop_instance_uid=uid, calling_ae_title=title)
            assigned = None
            if request.AffectedSOPInstanceUID is None:
                assigned = Dataset()
                assigned.AffectedSOPInstanceUID = uid
            return _SUCCESS, assigned
        except Exception as error:  # noqa: BLE001 - a peer must get an answer whatever happens
            return _refusal(error), None

    def set(self, event: evt.Event) -> Answer:
        """Handle N-SET: a step changes or ends."""
        try:
            request = request_of(event, N_SET)
            _check_class(request.RequestedSOPClassUID, event)
            attributes = _attributes(event, "modification_list")
            state = None
            if "PerformedProcedureStepStatus" in attributes:
                try:
                    state = StepState(_value(attributes, "PerformedProcedureStepStatus"))
                except ValueError as error:
                    raise _RefusedError(_INVALID_VALUE, "PerformedProcedureStepStatus is unknown") from error
            end_given = False
            if "PerformedProcedureStepEndDate" in attributes or "PerformedProcedureStepEndTime" in attributes:
                end_given = all(
                    attributes.get(f"PerformedProcedureStepEnd{part}") not in (None, "") for part in ("Date", "Time")
                )
                if not end_given and state is not None and state is not StepState.IN_PROGRESS:
                    raise _RefusedError(_MISSING_VALUE, "PerformedProcedureStepEndDate or -Time has no value")
            uid = str(request.RequestedSOPInstanceUID)
            change = StepChange(state, _made(attributes), end_given)
            outcome = change_step(self.ledger, uid, change, now=utc_now())
            if outcome is not StepOutcome.CHANGED:
                raise _RefusedError(*_REFUSALS[outcome])
            if state is not None:
                _log.info("performed step changed", sop_instance_uid=uid, state=state.value)
            return _SUCCESS, None
        except Exception as error:  # noqa: BLE001 - a peer must get an answer whatever happens
            return _refusal(error), None


_REFUSALS: dict[StepOutcome, tuple[int, str, int | None]] = {
    StepOutcome.UNKNOWN: (_NO_SUCH_INSTANCE, "there is no step of this UID", None),
    StepOutcome.ENDED: (
        _PROCESSING_FAILURE,
        "Performed Procedure Step Object may no longer be updated",
        _MAY_NO_LONGER_BE_UPDATED,
    ),
    StepOutcome.NO_END: (_MISSING, "PerformedProcedureStepEndDate and -Time are missing", None),
    StepOutcome.NO_SERIES: (_MISSING, "PerformedSeriesSequence is missing", None),
}


def _check_class(sop_class_uid: UID | None, event: evt.Event) -> None:
    if not sop_class_uid == event.context.abstract_syntax == ModalityPerformedProcedureStep:
        raise _RefusedError(_NO_SUCH_CLASS, "not Modality Performed Procedure Step")


def _attributes(event: evt.Event, name: str) -> Dataset:
    try:
        attributes: Dataset = getattr(event, name)
        # Values are converted when they are first read: what cannot be must show now.
        for _ in attributes.iterall():
            pass
    except Exception as error:
        raise _RefusedError(_INVALID_VALUE, "the attribute list cannot be read") from error
    return attributes


def _value(attributes: Dataset, keyword: str) -> str:
    """Text of a type 1 attribute; for a sequence whether it has items."""
    if keyword not in attributes:
        raise _RefusedError(_MISSING, f"{keyword} is missing")
    value = attributes.get(keyword)
    if value is None or (hasattr(value, "__len__") and not len(value)):
        raise _RefusedError(_MISSING_VALUE, f"{keyword} has no value")
    return str(value).strip()


def _uid(item: Dataset, keyword: str) -> str:
    value = _value(item, keyword)
    if not is_uid(value):
        raise _RefusedError(_INVALID_VALUE, f"{keyword} is no UID")
    return value


def _made(attributes: Dataset) -> dict[str, list[str]] | None:
    """SOP Instance UIDs by Series Instance UID; ``None`` when the list does not say."""
    if "PerformedSeriesSequence" not in attributes:
        return None
    return {
        _uid(item, "SeriesInstanceUID"): list(_references(item)) for item in attributes.PerformedSeriesSequence or ()
    }


def _references(series: Dataset) -> Iterator[str]:
    for keyword in _REFERENCES:
        for reference in series.get(keyword) or ():
            yield _uid(reference, "ReferencedSOPInstanceUID")


def _refusal(error: Exception) -> Dataset:
    answer = Dataset()
    if isinstance(error, _RefusedError):
        answer.Status, answer.ErrorComment = error.status, error.comment[:64]
        if error.error_id is not None:
            answer.ErrorID = error.error_id
    else:
        known = classify(error)
        answer.Status = _RESOURCE_LIMITATION if known.retryable else _PROCESSING_FAILURE
        answer.ErrorComment = type(known).__name__
    _log.warning("performed step refused", status=f"{answer.Status:04X}", why=str(answer.ErrorComment))
    return answer

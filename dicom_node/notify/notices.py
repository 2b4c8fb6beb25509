"""What people are told: of jobs that ended, and of alarms that begin, last and end."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dicom_node.config import NotificationCause, NotificationSettings
from dicom_node.node_status import Alarm
from storage.ended_jobs import EndedJob
from storage.schema import Verdict

__all__ = ["Notice", "alarm_notices", "job_notices"]

_OF_VERDICT = {Verdict.FAILED: NotificationCause.FAILED, Verdict.DECLINED: NotificationCause.DECLINED}


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that people are told."""

    cause: str
    """A :class:`NotificationCause`, ``alarm over``, or the name of a rule."""
    sentence: str
    remedy: str = ""


def job_notices(jobs: Sequence[EndedJob], settings: NotificationSettings) -> Iterator[Notice]:
    """Of studies that failed or were declined, and of numbers beyond a limit."""
    for job in jobs:
        about = f"job {job.id} ({job.package}, route {job.route}){_identity(job) if settings.patient else ''}"
        cause = _OF_VERDICT.get(job.verdict)
        if cause in settings.causes and cause is not None:
            said = " ".join(job.sentences) or "no reason was given"
            yield Notice(cause.value, f"{about} {cause.value}: {said}", f"dicom-node jobs tells more of job {job.id}")
        values = {str(one["name"]): float(one["value"]) for one in job.numbers}
        for name, rule in settings.rules.items():
            value = values.get(rule.number)
            if value is None:
                continue
            if rule.below is not None and value < rule.below:
                yield Notice(name, f"{about}: {rule.number} is {value:.1f}, below {rule.below:g}")
            if rule.above is not None and value > rule.above:
                yield Notice(name, f"{about}: {rule.number} is {value:.1f}, above {rule.above:g}")


def _identity(job: EndedJob) -> str:
    known = [("patient ID", "PatientID"), ("accession number", "AccessionNumber")]
    said = [f"study {job.study_instance_uid}"]
    said += [f"{words} {job.attributes[key]}" for words, key in known if job.attributes.get(key)]
    return f", {', '.join(said)}"


def alarm_notices(
    alarms: Sequence[Alarm], told: Mapping[str, dt.datetime], remind_after: dt.timedelta, now: dt.datetime
) -> tuple[list[Notice], dict[str, dt.datetime]]:
    """Of alarms that began, that last, and that are over.

    Parameters
    ----------
    told
        Alarms that were told, and when last.

    Returns
    -------
    list of Notice
        What is to be told now.
    dict
        ``told`` once that is told.
    """
    present = {_key(one): one for one in alarms}
    notices = [Notice("alarm over", key) for key in told if key not in present]
    after = {key: at for key, at in told.items() if key in present}
    for key, one in present.items():
        if key not in told or now - told[key] >= remind_after:
            notices.append(Notice(NotificationCause.ALARM.value, one.sentence, one.remedy))
            after[key] = now
    return notices, after


def _key(alarm: Alarm) -> str:
    """The alarm without its figures: three failed jobs are no other alarm than two."""
    return re.sub(r"\d[\d:.+-]*", "…", alarm.sentence)

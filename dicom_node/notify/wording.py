"""The words of notifications, by a template: a YAML file with :class:`string.Template` texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Annotated

from pydantic import BaseModel, ConfigDict

from dicom_node.config import NotificationSettings
from dicom_node.notify.notices import Notice
from dicom_node.text_templates import read_texts, text_with

__all__ = ["NotificationTemplate", "body", "read_notification_template", "subject"]

_PACKAGED = Path(__file__).with_name("templates") / "english.yaml"
_Whole = Annotated[str, text_with("node", "counts")]


class NotificationTemplate(BaseModel):
    """The words of notifications; ``templates/english.yaml`` explains them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: _Whole
    opening: _Whole
    notice: Annotated[str, text_with("cause", "sentence")]
    remedy: Annotated[str, text_with("remedy")]
    closing: _Whole
    causes: dict[str, str]
    """What causes are called; one that is not named here keeps its name."""


def read_notification_template(settings: NotificationSettings) -> NotificationTemplate:
    """The template that a configuration names.

    Raises
    ------
    ConfigurationError
        It cannot be read, or is not laid out as ``english.yaml``.
    """
    path = settings.template or _PACKAGED
    example = "dicom_node/notify/templates/english.yaml"
    return read_texts(path, NotificationTemplate, key="notifications.template", example=example)


def subject(template: NotificationTemplate, node: str, notices: Sequence[Notice]) -> str:
    """One line about all notices."""
    return " ".join(_whole(template.subject, template, node, notices).split())


def body(template: NotificationTemplate, node: str, notices: Sequence[Notice]) -> str:
    """All notices, one below the other; without a line end at its end."""
    lines = [_line(template, one) for one in notices]
    around = (_whole(text, template, node, notices).rstrip("\n") for text in (template.opening, template.closing))
    opening, closing = around
    return "\n".join(part for part in (opening, *lines, closing) if part)


def _line(template: NotificationTemplate, notice: Notice) -> str:
    cause = template.causes.get(notice.cause, notice.cause)
    said = Template(template.notice).substitute(cause=cause, sentence=notice.sentence)
    return said + (Template(template.remedy).substitute(remedy=notice.remedy) if notice.remedy else "")


def _whole(text: str, template: NotificationTemplate, node: str, notices: Sequence[Notice]) -> str:
    counted = Counter(template.causes.get(one.cause, one.cause) for one in notices)
    counts = ", ".join(f"{count} {cause}" for cause, count in counted.items())
    return Template(text).substitute(node=node, counts=counts)

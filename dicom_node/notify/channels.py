"""Ways to people: e-mail (SMTP) and a webhook."""

from __future__ import annotations

import email.utils
import smtplib
import ssl
from collections.abc import Callable, Sequence
from email.message import EmailMessage

import httpx

from dicom_node.config import HttpService, MailSecurity, MailSettings, NotificationSettings
from dicom_node.errors import PeerUnavailableError
from dicom_node.notify.notices import Notice
from dicom_node.notify.wording import body, read_notification_template, subject
from dicom_node.web.client import http_client

__all__ = ["Send", "channels"]

Send = Callable[[Sequence[Notice]], None]
"""Tells all notices in one message; raises :class:`PeerUnavailableError` or :class:`ConfigurationError`."""

_TIMEOUT_S = 30.0


def channels(settings: NotificationSettings, node: str) -> dict[str, Send]:
    """The ways that are configured, by name.

    Parameters
    ----------
    node
        AE title, so that people know which node speaks.

    Raises
    ------
    ConfigurationError
        The template cannot be used.
    """
    found: dict[str, Send] = {}
    mail, hook = settings.email, settings.webhook
    if mail is None and hook is None:
        return found
    template = read_notification_template(settings)
    if mail is not None:
        found["email"] = lambda notices: _mail(mail, subject(template, node, notices), body(template, node, notices))
    if hook is not None:
        found["webhook"] = lambda notices: _post(hook, node, notices, body(template, node, notices))
    return found


def _mail(settings: MailSettings, title: str, text: str) -> None:
    message = EmailMessage()
    message["Subject"] = title
    message["From"], message["To"] = settings.sender, ", ".join(settings.recipients)
    message["Date"] = email.utils.localtime()
    message["Message-ID"] = email.utils.make_msgid(domain="dicom-node")
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(f"{text}\n")
    try:
        context = ssl.create_default_context(cafile=settings.trusted)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with (
            smtplib.SMTP_SSL(settings.host, settings.port, timeout=_TIMEOUT_S, context=context)
            if settings.security is MailSecurity.TLS
            else smtplib.SMTP(settings.host, settings.port, timeout=_TIMEOUT_S)
        ) as server:
            if settings.security is MailSecurity.STARTTLS:
                server.starttls(context=context)
            if settings.password is not None:
                server.login(settings.user, settings.password.read())
            server.send_message(message)
    except (smtplib.SMTPException, OSError) as error:
        raise PeerUnavailableError(
            f"did not take the mail: {type(error).__name__}",
            subject=f"notifications.email {settings.host}:{settings.port}",
            remedy="check host, port, security and password",
        ) from error


def _post(service: HttpService, node: str, notices: Sequence[Notice], text: str) -> None:
    told = {
        "node": node,
        # What chat services show.
        "text": text,
        "notices": [{"cause": one.cause, "sentence": one.sentence, "remedy": one.remedy} for one in notices],
    }
    whom = f"notifications.webhook {service.url}"
    try:
        with http_client(service, httpx.Timeout(_TIMEOUT_S, connect=service.connect_timeout_s)) as client:
            response = client.post(service.url, json=told)
    except (httpx.HTTPError, OSError) as error:
        raise PeerUnavailableError(
            f"cannot be reached: {type(error).__name__}", subject=whom, remedy="check the URL and certificates"
        ) from error
    if not response.is_success:
        raise PeerUnavailableError(f"answered {response.status_code}", subject=whom, remedy="see its log")

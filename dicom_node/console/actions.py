"""What people do in the console: each action once, for its form on a page and for the REST API.

Every action says afterwards in one sentence what came of it. What it may not do it refuses with an error of the node's
taxonomy or of the ledger, and then nothing was changed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dicom_node.audit.messages import Access, configuration_changed, user_security_changed
from dicom_node.config import DestinationProfile, Peer
from dicom_node.console.access import Person
from dicom_node.console.configuration import reread
from dicom_node.console.links import new_invitation
from dicom_node.console.node import Node
from dicom_node.console.rules import LONGEST_TEXT, save_routes
from dicom_node.corrections import (
    SENDABLE,
    Consent,
    Rejection,
    audit_access,
    delete_everywhere,
    drop_quarantined,
    give_deliveries_up,
    run_job_again,
    run_route,
    send_again,
    take_in_quarantined,
)
from dicom_node.errors import NodeError
from storage.accounts import (
    NAME_PATTERN,
    change_role,
    create_token,
    disable_account,
    enable_account,
    revoke_token,
    secret_digest,
)
from storage.assessments import assess
from storage.deliveries import Selection
from storage.ledger import utc_now
from storage.overview import study_of_job
from storage.paused import pause_destination, resume_destination
from storage.quarantine import quarantined_object
from storage.schema import AccountRole, AssessmentResult, DeliveryState

__all__ = ["ACTIONS", "Action", "Done"]


def _one_line(value: str) -> str:
    return " ".join(value.split())


Words = Annotated[str, AfterValidator(_one_line)]
Reason = Annotated[Words, Field(min_length=3, max_length=200, description="Why, in words that name no patient.")]
Uid = Annotated[str, Field(pattern=r"^[0-9A-Za-z.]{1,64}$")]
AccountName = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$", description="Small letters, digits, dots, - and _.")]
RouteName = Annotated[str, Field(min_length=1, max_length=41)]
DestinationName = Annotated[str, Field(min_length=1, max_length=41)]


class _Order(BaseModel):
    """What is to be done; other fields of a form, its token for one, are not part of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class JobOrder(_Order):
    """A job, and why."""

    job: int = Field(ge=1)
    reason: Reason


class StudyOrder(_Order):
    """A study, and why."""

    study: Uid
    reason: Reason


class DeletionOrder(StudyOrder):
    """A study that is to be deleted."""

    reject: Rejection = Rejection.SAFETY
    """What destinations that hold its results are told."""


class DeliveriesOrder(_Order):
    """Deliveries, by what is known of them: those to which all that is given applies."""

    destination: DestinationName | None = None
    job: int | None = Field(default=None, ge=1)
    study: Uid | None = None
    waiting: bool = False
    """Also what waits for its next attempt."""
    given_up: bool = False
    """Also what somebody gave up; of a job or a study only."""
    reason: Reason

    def selection(self) -> Selection:
        """The deliveries, as the ledger selects them.

        Raises
        ------
        NodeError
            Nothing was said of them.
        """
        chosen = Selection(self.destination, None, self.job, self.study)
        if chosen == Selection():
            raise NodeError("say which deliveries", remedy="name a destination, a job or a study")
        return chosen


class DestinationOrder(_Order):
    """A destination."""

    destination: DestinationName


class PauseOrder(DestinationOrder):
    """A destination, and why."""

    reason: Reason


class QuarantineOrder(_Order):
    """An object that was kept aside, and why."""

    number: int = Field(ge=1)
    reason: Reason


class RouteOrder(StudyOrder):
    """A study, and a route that is to analyse it."""

    route: RouteName
    every_series: bool = False
    """Take every series that this node did not make, though no rule of the route takes it."""


class RoutesOrder(_Order):
    """Routes that are to be put to use."""

    text: str = Field(max_length=LONGEST_TEXT, description="Section routes, as it is to stand in config.yaml.")
    began_with: str = Field(pattern="^[0-9a-f]{64}$", description="The digest of what stood there before.")
    reason: Reason


class ReasonOrder(_Order):
    """Something that there is only one of, and why."""

    reason: Reason


class AssessmentOrder(_Order):
    """A radiologist's verdict on the results of a job."""

    job: int = Field(ge=1)
    result: AssessmentResult
    comment: Annotated[Words, Field(max_length=500)] = ""


class InvitationOrder(_Order):
    """Who is to be let in; to a name that is known already it gives a new password."""

    name: AccountName
    role: AccountRole


class AccountOrder(_Order):
    """An account."""

    name: AccountName


class TokenOrder(_Order):
    """The token of a program."""

    name: AccountName
    role: AccountRole = AccountRole.VIEWER


@dataclass(frozen=True, slots=True)
class Done:
    """What came of an action."""

    sentence: str
    secret: str = ""
    """Told this once: a link or a token, of which the node keeps the digest only."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that people do."""

    name: str
    """Last part of its paths."""
    title: str
    role: AccountRole
    """From which on it may be done."""
    order: type[BaseModel]
    do: Callable[[Node, Person, Any], Done]


def _consent(person: Person, reason: str) -> Consent:
    return Consent(person.name, person.address, reason)


def _plural(count: int, noun: str) -> str:
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else many}"


def _run_again(node: Node, person: Person, order: JobOrder) -> Done:
    run_job_again(node.ledger, node.trail, order.job, _consent(person, order.reason))
    return Done(f"Job {order.job} is queued again.")


def _run_route(node: Node, person: Person, order: RouteOrder) -> Done:
    given = _consent(person, order.reason)
    try:
        made = run_route(
            node.configuration,
            node.ledger,
            node.trail,
            order.study,
            order.route,
            given,
            every_series=order.every_series,
        )
    except OSError as error:
        raise NodeError("its files were removed, or cannot be read", subject=order.study) from error
    return Done(f"{_plural(len(made), 'job')} of route {order.route} queued.")


def _save_routes(node: Node, person: Person, order: RoutesOrder) -> Done:
    saved = save_routes(node, order.text, order.began_with, by=person.name, reason=order.reason)
    _tell_of_configuration(node, person, f"routes saved as version {saved.version}: {order.reason}")
    sentences = [f"Saved as version {saved.version}."]
    if saved.taken_up:
        sentences.append("The node works by it from now on; what was under way ends by the routes before.")
    elif saved.runs:
        sentences.append("The node has not taken it up yet: its log says why.")
    else:
        sentences.append("No node runs on this machine; it works by it when it is started.")
    if saved.also:
        sentences.append(f"Changed by hand in the file, and taken up as well: {', '.join(saved.also)}.")
    if saved.at_next_start:
        sentences.append(f"Waiting for the next start of the node: {', '.join(saved.at_next_start)}.")
    return Done(" ".join(sentences))


def _reread(node: Node, person: Person, order: ReasonOrder) -> Done:
    read = reread(node)
    sentences = []
    if read.changed:
        what = f"configuration read again ({', '.join(read.changed)}): {order.reason}"
        _tell_of_configuration(node, person, what)
        how = "The node works by what changed" if read.taken_up else "The node was told to take up what changed"
        sentences.append(f"{how}: {', '.join(read.changed)}; what was under way ends by what was before.")
        if not read.taken_up:
            sentences.append("It has not done so yet: its log says why.")
    else:
        sentences.append("The node works by what stands there; nothing was changed.")
    if read.at_next_start:
        sentences.append(f"Waiting for the next start of the node: {', '.join(read.at_next_start)}.")
    if node.configuration.hosts:
        sentences.append("Other hosts read it when somebody tells them: dicom-node reload.")
    return Done(" ".join(sentences))


def _tell_of_configuration(node: Node, person: Person, what: str) -> None:
    if node.trail.file is not None:
        node.trail.record(configuration_changed(person.participant, node.trail.node, description=what, at=utc_now()))


def _send_again(node: Node, person: Person, order: DeliveriesOrder) -> Done:
    also = ((order.waiting, DeliveryState.QUEUED), (order.given_up, DeliveryState.DISMISSED))
    states = (*SENDABLE, *(state for wanted, state in also if wanted))
    if order.study is None and order.job is None:
        # To a whole destination: what never arrived, and not the results of all years.
        states = tuple(one for one in states if one in (DeliveryState.DEAD, DeliveryState.QUEUED))
    given = _consent(person, order.reason)
    done = send_again(node.ledger, node.trail, order.selection(), given, states=states)
    if not done:
        raise NodeError("there is nothing to send again", remedy="its files may have been removed by retention")
    return Done(f"{_plural(done, 'delivery')} queued.")


def _dismiss(node: Node, person: Person, order: DeliveriesOrder) -> Done:
    states = (DeliveryState.DEAD, DeliveryState.QUEUED) if order.waiting else (DeliveryState.DEAD,)
    given = _consent(person, order.reason)
    done = give_deliveries_up(node.ledger, node.trail, order.selection(), given, states=states)
    if not done:
        raise NodeError("there is nothing to give up", remedy="only dead letters, and what waits, can be given up")
    return Done(f"{_plural(done, 'delivery')} given up.")


def _delete(node: Node, person: Person, order: DeletionOrder) -> Done:
    given = _consent(person, order.reason)
    deleted = delete_everywhere(
        node.configuration, node.ledger, node.files, node.trail, order.study, order.reject, given
    )
    return Done(f"{_plural(deleted.instances, 'instance')} and {_plural(deleted.results, 'result')} deleted.")


def _pause(node: Node, person: Person, order: PauseOrder) -> Done:
    _known(node, order.destination)
    pause_destination(node.ledger, order.destination, reason=order.reason, by=person.name, now=utc_now())
    return Done(f"Nothing is sent to {order.destination} until somebody resumes it.")


def _resume(node: Node, person: Person, order: DestinationOrder) -> Done:
    resume_destination(node.ledger, order.destination, by=person.name, now=utc_now())
    return Done(f"{order.destination} is sent to again.")


def _test(node: Node, person: Person, order: DestinationOrder) -> Done:  # noqa: ARG001
    from dicom_node.network.sender import ScuSettings, echo
    from dicom_node.web.client import ask

    profile = _known(node, order.destination)
    if not profile.takes_objects:
        raise NodeError("takes messages, and answers no echo", subject=order.destination, remedy="test it in full")
    if profile.web is not None:
        answer = ask(profile.web, node.configuration.delivery.response_timeout_s)
        how = "The web service"
    else:
        peer: Peer = node.configuration.peers[str(profile.peer)]
        answer = echo(peer, ScuSettings.of(node.configuration))
        how = f"C-ECHO to {peer.ae_title} at {peer.host}:{peer.port}"
    if answer.error is not None:
        raise answer.error
    return Done(f"{how} was answered with success in {1000 * answer.seconds:.0f} ms.")


def _try(node: Node, person: Person, order: DestinationOrder) -> Done:
    from dicom_node.deliver.trial import try_destination

    _known(node, order.destination)
    trial = try_destination(node.configuration, node.ledger, order.destination, by=person.name)
    amiss = [step for step in trial.steps if not step.well]
    if amiss:
        raise NodeError(f"{amiss[0].what}: {amiss[0].words}", subject=order.destination)
    return Done(f"{order.destination} did all that was asked: {_plural(len(trial.steps), 'step')}.")


def _known(node: Node, destination: str) -> DestinationProfile:
    profile = node.configuration.results.destinations.get(destination)
    if profile is None:
        known = ", ".join(node.configuration.results.destinations) or "none"
        raise NodeError("no such destination in results.destinations", subject=destination, remedy=f"known: {known}")
    return profile


def _take_in(node: Node, person: Person, order: QuarantineOrder) -> Done:
    one = quarantined_object(node.ledger, order.number)
    given = _consent(person, order.reason)
    try:
        take_in_quarantined(node.configuration, node.ledger, node.files, node.trail, one, given)
    except OSError as error:
        raise NodeError(
            f"its file cannot be read: {error.strerror}", subject=f"object {order.number}", remedy="drop it"
        ) from error
    return Done(f"Object {order.number} taken in; its study is scheduled again.")


def _drop(node: Node, person: Person, order: QuarantineOrder) -> Done:
    one = quarantined_object(node.ledger, order.number)
    drop_quarantined(node.ledger, node.files, node.trail, one, _consent(person, order.reason))
    return Done(f"Object {order.number} dropped.")


def _assess(node: Node, person: Person, order: AssessmentOrder) -> Done:
    study = study_of_job(node.ledger, order.job)
    kept = assess(
        node.ledger,
        order.job,
        order.result,
        comment=order.comment,
        by=person.name,
        now=utc_now(),
        receivers=node.configuration.results.message_receivers,
    )
    what = f"results of {kept.package} {kept.result.value}"
    audit_access(node.trail, _consent(person, ""), (study,), Access.UPDATE, what)
    return Done(f"Kept: {what}.")


def _invite(node: Node, person: Person, order: InvitationOrder) -> Done:
    link = new_invitation(node.configuration, node.ledger, name=order.name, role=order.role, by=person.name)
    _tell(node, person, order.name, f"invited as {order.role.value}")
    return Done(f"With this link {order.name} chooses a password; it holds once, for three days.", link)


def _change_role(node: Node, person: Person, order: InvitationOrder) -> Done:
    change_role(node.ledger, order.name, order.role, by=person.name, now=utc_now())
    _tell(node, person, order.name, f"is {order.role.value} from now on")
    return Done(f"{order.name} is {order.role.value} from now on, and has to log in again.")


def _disable(node: Node, person: Person, order: AccountOrder) -> Done:
    disable_account(node.ledger, order.name, by=person.name, now=utc_now())
    _tell(node, person, order.name, "let in no more")
    return Done(f"{order.name} is let in no more.")


def _enable(node: Node, person: Person, order: AccountOrder) -> Done:
    enable_account(node.ledger, order.name, by=person.name, now=utc_now())
    _tell(node, person, order.name, "let in again")
    return Done(f"{order.name} is let in again.")


def _create_token(node: Node, person: Person, order: TokenOrder) -> Done:
    token = secrets.token_urlsafe(32)
    create_token(node.ledger, order.name, secret_digest(token), order.role, by=person.name, now=utc_now())
    _tell(node, person, order.name, f"token made, role {order.role.value}")
    return Done(f"The token of {order.name}; it is shown this once.", token)


def _revoke_token(node: Node, person: Person, order: AccountOrder) -> Done:
    revoke_token(node.ledger, order.name, by=person.name, now=utc_now())
    _tell(node, person, order.name, "token revoked")
    return Done(f"The token of {order.name} holds no longer.")


def _tell(node: Node, person: Person, account: str, what: str) -> None:
    if node.trail.file is not None:
        node.trail.record(
            user_security_changed(person.participant, node.trail.node, account=account, description=what, at=utc_now())
        )


_VIEWER, _OPERATOR, _ADMINISTRATOR = AccountRole
ACTIONS = (
    Action("assess", "Accept, reject or correct results", _VIEWER, AssessmentOrder, _assess),
    Action("run-again", "Run a job again", _OPERATOR, JobOrder, _run_again),
    Action("run-route", "Let a route analyse a study", _OPERATOR, RouteOrder, _run_route),
    Action("save-routes", "Put edited routes to use", _OPERATOR, RoutesOrder, _save_routes),
    Action("reload", "Let the node read its configuration file again", _OPERATOR, ReasonOrder, _reread),
    Action("send-again", "Send results again", _OPERATOR, DeliveriesOrder, _send_again),
    Action("dismiss", "Give deliveries up", _OPERATOR, DeliveriesOrder, _dismiss),
    Action("delete-study", "Delete a study, and reject its results", _OPERATOR, DeletionOrder, _delete),
    Action("pause", "Pause a destination", _OPERATOR, PauseOrder, _pause),
    Action("resume", "Resume a destination", _OPERATOR, DestinationOrder, _resume),
    Action("test-destination", "Test the connection to a destination", _OPERATOR, DestinationOrder, _test),
    Action("try-destination", "Test a destination in full, with a test object", _OPERATOR, DestinationOrder, _try),
    Action("take-in", "Take an object out of quarantine", _OPERATOR, QuarantineOrder, _take_in),
    Action("drop", "Delete an object in quarantine", _OPERATOR, QuarantineOrder, _drop),
    Action("invite", "Invite a person, or give a new password", _ADMINISTRATOR, InvitationOrder, _invite),
    Action("change-role", "Give an account another role", _ADMINISTRATOR, InvitationOrder, _change_role),
    Action("disable-account", "Let a person in no more", _ADMINISTRATOR, AccountOrder, _disable),
    Action("enable-account", "Let a person of the identity provider in again", _ADMINISTRATOR, AccountOrder, _enable),
    Action("create-token", "Let a program in", _ADMINISTRATOR, TokenOrder, _create_token),
    Action("revoke-token", "Let a program in no more", _ADMINISTRATOR, AccountOrder, _revoke_token),
)

"""A hospital's identity provider says who a person is: OpenID Connect, authorization code flow with PKCE.

Sources: OpenID Connect Core 1.0 (3.1), Discovery 1.0, RP-Initiated Logout 1.0; PKCE, RFC 7636; issuer of an answer,
RFC 9207. The browser carries what a log-in was begun with in a cookie that scripts cannot read; nothing of it is kept
on the node.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

import httpx
from authlib.common.security import generate_token
from authlib.common.urls import add_params_to_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from joserfc import jwt
from joserfc.errors import ClaimError, ExpiredTokenError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from dicom_node.config import IdentityProviderSettings, secure_or_nearby
from dicom_node.errors import PeerUnavailableError
from storage.accounts import NAME_PATTERN
from storage.schema import AccountRole

__all__ = ["HospitalIdentity", "IdentityProvider", "NotProvenError", "StartedLogIn", "check_provider"]

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Signatures that only the provider can make; neither ``none`` nor those by a shared secret."""
LEEWAY_S = 60
"""By how much the two clocks may differ."""
METADATA_KEPT_S, KEYS_KEPT_S = 3600.0, 3600.0
_TIMEOUT = httpx.Timeout(10.0)
_LARGEST = 1 << 20
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")
_CLAIMS_IN_WORDS = {
    "iss": "it was issued by another provider",
    "aud": "it was issued for another program",
    "azp": "it was issued for another program",
    "nonce": "it answers another log-in",
    "at_hash": "it does not belong to the access token",
    "iat": "it was issued in the future: compare the clocks",
    "nbf": "it is not valid yet: compare the clocks",
    "exp": "it has no time at which it expires",
}


class NotProvenError(Exception):
    """The provider has not said, in a way that can be believed, that this person may come in."""

    def __init__(self, sentence: str, *, name: str = "") -> None:
        super().__init__(sentence)
        self.name = name
        """Who it is, where that is proven."""


@dataclass(frozen=True, slots=True)
class StartedLogIn:
    """What a log-in was begun with, and its answer has to fit."""

    state: str
    nonce: str
    verifier: str
    """Of PKCE."""
    target: str
    """Path of the console to go to."""

    def kept(self) -> str:
        """The text of a cookie that keeps it."""
        return base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode("ascii")

    @classmethod
    def read(cls, kept: str) -> StartedLogIn | None:
        """Read it from a cookie; none where the cookie holds no started log-in."""
        try:
            found = json.loads(base64.urlsafe_b64decode(kept.encode()))
            return cls(**found) if all(isinstance(one, str) for one in found.values()) else None
        except (binascii.Error, ValueError, TypeError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class HospitalIdentity:
    """A person, as the provider has proven."""

    issuer: str
    subject: str
    """Never given to another person by this issuer (``sub``)."""
    name: str
    """As an account is called here."""
    role: AccountRole
    id_token: str
    """As it came, for the log-out there."""


class IdentityProvider:
    """One provider; what it says of itself, and its keys, are asked for when needed and kept for an hour."""

    def __init__(self, settings: IdentityProviderSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] = {}
        self._metadata_at = -METADATA_KEPT_S
        self._keys = KeySet([])
        self._keys_at = -KEYS_KEPT_S

    def begin(self, target: str) -> tuple[str, StartedLogIn]:
        """Where to send the browser, and what to keep until it comes back.

        Raises
        ------
        PeerUnavailableError
            The provider does not say where.
        """
        started = StartedLogIn(generate_token(43), generate_token(43), generate_token(64), target)
        asked = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self.settings.redirect_uri,
            "scope": " ".join(dict.fromkeys(("openid", *self.settings.scopes))),
            "state": started.state,
            "nonce": started.nonce,
            "code_challenge": create_s256_code_challenge(started.verifier),
            "code_challenge_method": "S256",
        }
        return add_params_to_uri(self._endpoint("authorization_endpoint"), list(asked.items())), started

    def finish(self, started: StartedLogIn | None, answer: Mapping[str, str]) -> HospitalIdentity:
        """The person whom the answer of the provider proves.

        Parameters
        ----------
        started
            What this browser began; none where it has kept nothing.
        answer
            Parameters of the authorization response.

        Raises
        ------
        NotProvenError
            It is the answer to another question, the provider refused, what it says cannot be believed, or none of
            the person's values of the role claim is a role here.
        PeerUnavailableError
            The provider cannot be reached, or fails.
        """
        if started is None or not answer.get("state") or answer["state"] != started.state:
            raise NotProvenError(
                f"This browser has not begun this log-in, or too long ago. Begin again at {self.settings.url}."
            )
        # Who answers in place of another is found out before its answer is put to use (RFC 9207 2.4).
        if answer.get("iss", self.settings.issuer).rstrip("/") != self.settings.issuer:
            raise NotProvenError("Another identity provider has answered.")
        if "error" in answer:
            code = answer["error"] if _ERROR_CODE.fullmatch(answer["error"]) else "an error"
            raise NotProvenError(f"The identity provider has not let you in; it answered {code}.")
        tokens = self._exchange(answer.get("code", ""), started.verifier)
        id_token, access_token = tokens.get("id_token"), tokens.get("access_token")
        if not isinstance(id_token, str):
            raise NotProvenError("The identity provider has not said who you are (it gave no ID token).")
        claims = self._believed(id_token, started.nonce, access_token if isinstance(access_token, str) else None)
        told = self._told(claims, access_token)
        name = self._name(told)
        return HospitalIdentity(self.settings.issuer, str(claims["sub"]), name, self._role(told, name), id_token)

    def log_out_url(self, id_token: str) -> str | None:
        """Where a browser ends its session at the provider (RP-Initiated Logout 1.0); none where it has no such place.

        Raises
        ------
        PeerUnavailableError
            The provider does not say.
        """
        endpoint = self._described().get("end_session_endpoint")
        if not isinstance(endpoint, str) or not secure_or_nearby(endpoint):
            return None
        asked = {"client_id": self.settings.client_id, "post_logout_redirect_uri": f"{self.settings.url}/log-in"}
        if id_token:
            asked["id_token_hint"] = id_token
        return add_params_to_uri(endpoint, list(asked.items()))

    def check(self) -> str:
        """Hold what the provider says of itself against what is needed; its ways of signing.

        Raises
        ------
        PeerUnavailableError
            It cannot be reached, is another one, or cannot do what is needed.
        """
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            self._endpoint(name)
        described = self._described()
        offered = described.get("id_token_signing_alg_values_supported", ["RS256"])
        usable = [one for one in offered if one in ALGORITHMS]
        if not usable:
            raise self._unfit(f"signs only by {', '.join(map(str, offered))}", "let it sign by RS256 or ES256")
        if "code" not in described.get("response_types_supported", ["code"]):
            raise self._unfit("does not offer the authorization code flow", "allow it for this client")
        methods = described.get("code_challenge_methods_supported")
        if methods is not None and "S256" not in methods:
            raise self._unfit("does not offer PKCE by S256", "allow it for this client")
        if self.settings.client_secret is not None:
            self.settings.client_secret.read()
        if not self._key_set(again=True).keys:
            raise self._unfit("has no keys", f"look at {described['jwks_uri']}")
        return ", ".join(usable)

    # -- what the provider says of itself ------------------------------------------------------------------------------

    def _described(self) -> dict[str, Any]:
        with self._lock:
            if time.monotonic() - self._metadata_at >= METADATA_KEPT_S:
                where = get_well_known_url(self.settings.issuer, external=True)
                found = self._json(self._send("GET", where), "what it says of itself")
                if str(found.get("issuer")).rstrip("/") != self.settings.issuer:
                    raise self._unfit("says that it is another one", "write its issuer as it does itself")
                self._metadata, self._metadata_at = found, time.monotonic()
            return self._metadata

    def _endpoint(self, name: str) -> str:
        found = self._described().get(name)
        if not isinstance(found, str) or not secure_or_nearby(found):
            raise self._unfit(f"names no {name} with https://", "correct it there")
        return found

    def _key_set(self, *, again: bool) -> KeySet:
        where = self._endpoint("jwks_uri")
        with self._lock:
            if again or time.monotonic() - self._keys_at >= KEYS_KEPT_S:
                found = self._json(self._send("GET", where), "its keys")
                # A kind of key that is not known here must not hide the others.
                usable = [one for one in found.get("keys", ()) if _can_sign(one)]
                try:
                    self._keys = KeySet.import_key_set({"keys": usable})
                except (JoseError, ValueError, TypeError, KeyError) as error:
                    raise self._unfit("has keys that cannot be read", f"look at {where}") from error
                self._keys_at = time.monotonic()
            return self._keys

    # -- what it says of a person --------------------------------------------------------------------------------------

    def _exchange(self, code: str, verifier: str) -> dict[str, Any]:
        settings = self.settings
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.settings.redirect_uri,
            "code_verifier": verifier,
        }
        auth = None
        if settings.client_secret is None:
            form["client_id"] = settings.client_id
        else:
            # Each part is a form value (RFC 6749 2.3.1).
            auth = httpx.BasicAuth(quote(settings.client_id, safe=""), quote(settings.client_secret.read(), safe=""))
        response = self._send("POST", self._endpoint("token_endpoint"), data=form, auth=auth)
        if response.status_code in (400, 401):
            error = self._json(response, "a refusal", status=response.status_code).get("error")
            code = error if isinstance(error, str) and _ERROR_CODE.fullmatch(error) else "an error"
            raise NotProvenError(f"The identity provider has not said who you are; it answered {code}.")
        return self._json(response, "who somebody is")

    def _believed(self, id_token: str, nonce: str, access_token: str | None) -> CodeIDToken:
        try:
            try:
                token = jwt.decode(id_token, self._key_set(again=False), algorithms=list(ALGORITHMS))
            except InvalidKeyIdError:
                # The provider may have changed its keys since they were asked for.
                token = jwt.decode(id_token, self._key_set(again=True), algorithms=list(ALGORITHMS))
        except (JoseError, ValueError) as error:
            raise NotProvenError("The ID token is not signed by a key of the identity provider.") from error
        claims = CodeIDToken(
            token.claims,
            token.header,
            options={
                "iss": {"essential": True, "values": [self.settings.issuer, f"{self.settings.issuer}/"]},
                "aud": {"essential": True, "value": self.settings.client_id},
            },
            params={"nonce": nonce, "client_id": self.settings.client_id, "access_token": access_token},
        )
        try:
            claims.validate(leeway=LEEWAY_S)
        except ExpiredTokenError as error:
            raise NotProvenError("The ID token has expired: compare the clocks, and log in again.") from error
        except ClaimError as error:
            why = _CLAIMS_IN_WORDS.get(error.claim, f"its claim {error.claim} is missing or wrong")
            raise NotProvenError(f"The ID token cannot be believed: {why}.") from error
        except (JoseError, ValueError, TypeError) as error:
            raise NotProvenError("The ID token cannot be believed: it is malformed.") from error
        if not isinstance(claims["sub"], str) or not claims["sub"]:
            raise NotProvenError("The ID token cannot be believed: it says of nobody who it is.")
        return claims

    def _told(self, claims: Mapping[str, Any], access_token: object) -> Mapping[str, Any]:
        """Claims of the ID token, with those of the UserInfo endpoint where name or role is missing."""
        wanted = (self.settings.name_claim, self.settings.role_claim)
        endpoint = self._described().get("userinfo_endpoint")
        enough = all(_claim(claims, one) is not None for one in wanted)
        if enough or not isinstance(access_token, str) or not isinstance(endpoint, str):
            return claims
        bearer = {"Authorization": f"Bearer {access_token}"}
        more = self._json(self._send("GET", self._endpoint("userinfo_endpoint"), headers=bearer), "more of somebody")
        if more.get("sub") != claims["sub"]:
            raise NotProvenError("The identity provider speaks of two persons.")
        return {**more, **claims}

    def _name(self, claims: Mapping[str, Any]) -> str:
        value = _claim(claims, self.settings.name_claim)
        name = re.sub(r"[^a-z0-9._-]", "-", value.strip().lower())[:40] if isinstance(value, str) else ""
        if re.fullmatch(NAME_PATTERN, name) is None:
            raise NotProvenError(
                f"The identity provider gave no name that an account can have (claim {self.settings.name_claim})."
            )
        return name

    def _role(self, claims: Mapping[str, Any], name: str) -> AccountRole:
        value = _claim(claims, self.settings.role_claim)
        values = {value} if isinstance(value, str) else set(map(str, value)) if isinstance(value, list) else set()
        for role in reversed(AccountRole):
            if values & self.settings.roles.get(role.value, frozenset()):
                return role
        raise NotProvenError(
            "Your hospital account has no role in this console. Ask those who run it for one.",
            name=name,
        )

    # -- the way there -------------------------------------------------------------------------------------------------

    def _send(self, method: str, url: str, **request: Any) -> httpx.Response:
        try:
            with httpx.Client(
                verify=ssl.create_default_context(cafile=self.settings.trusted),
                follow_redirects=False,
                trust_env=False,
                timeout=_TIMEOUT,
            ) as client:
                return client.request(method, url, **request)
        except (httpx.HTTPError, OSError) as error:
            raise PeerUnavailableError(
                f"cannot be reached: {type(error).__name__}",
                subject=f"identity provider {self.settings.issuer}",
                remedy="check its address, the network and the certificates that are trusted",
            ) from error

    def _json(self, response: httpx.Response, what: str, *, status: int = 200) -> dict[str, Any]:
        try:
            found = response.json() if len(response.content) <= _LARGEST else None
        except ValueError:
            found = None
        if response.status_code != status or not isinstance(found, dict):
            raise self._unfit(f"did not say {what} (it answered {response.status_code})", "see its log")
        return found

    def _unfit(self, what: str, remedy: str) -> PeerUnavailableError:
        return PeerUnavailableError(what, subject=f"identity provider {self.settings.issuer}", remedy=remedy)


def check_provider(settings: IdentityProviderSettings) -> str:
    """Ask a provider what it is and can do; its ways of signing.

    Raises
    ------
    PeerUnavailableError
        It cannot be reached, is another one, or cannot do what is needed.
    ConfigurationError
        The secret cannot be read.
    """
    return IdentityProvider(settings).check()


def _can_sign(key: object) -> bool:
    return isinstance(key, dict) and key.get("kty") in ("RSA", "EC") and key.get("use", "sig") == "sig"


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by the path to it with dots (``realm_access.roles``)."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found

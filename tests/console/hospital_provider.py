"""A hospital's identity provider on a port of this machine, whose people need no password: Authlib's own server.

It checks PKCE, codes and redirect URIs on its own, and signs with RSA keys.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import uvicorn
from authlib.oauth2 import OAuth2Error, OAuth2Request
from authlib.oauth2.rfc6749 import AuthorizationServer, grants
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core.grants import OpenIDCode
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from interop.ports import free_port, wait_until
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

CLIENT, SECRET = "dicom-node", "a secret with: and %"


@dataclasses.dataclass
class Employee:
    """Who is logged in at the provider."""

    sub: str = "0a1b"
    name: str = "Ann.Lee"
    groups: Any = ("radiology",)


@dataclasses.dataclass
class Code:
    code: str
    redirect_uri: str
    scope: str
    nonce: str
    code_challenge: str
    code_challenge_method: str
    employee: Employee
    auth_time: int

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str:
        return self.nonce

    def get_auth_time(self) -> int:
        return self.auth_time

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


@dataclasses.dataclass
class Provider:
    """The provider, and what is wrong with it."""

    port: int
    redirect_uri: str
    public: bool = False
    employee: Employee = dataclasses.field(default_factory=Employee)
    keys: list[RSAKey] = dataclasses.field(default_factory=lambda: [first_key()])
    """Those that it publishes; the last signs."""
    signing: RSAKey | None = None
    """A key that it does not publish, to sign with."""
    algorithm: str = "RS256"
    spoiled: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Claims of the ID token that are other than they should be; ``None`` leaves one out."""
    described: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What it says of itself that is other than it should be."""
    in_user_info: bool = False
    """Name and groups are told at the UserInfo endpoint only."""
    answers: bool = True
    codes: dict[str, Code] = dataclasses.field(default_factory=dict)
    tokens: dict[str, Employee] = dataclasses.field(default_factory=dict)
    asked: list[str] = dataclasses.field(default_factory=list)
    """Paths that were asked for."""
    ended: list[dict[str, str]] = dataclasses.field(default_factory=list)
    """Log-outs, by their parameters."""
    refuses: str = ""
    """Error that answers a request for authorization."""

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}/hospital"

    # -- the client, as Authlib asks for it

    def get_client_id(self) -> str:
        return CLIENT

    def get_default_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self.redirect_uri

    def check_client_secret(self, secret: str) -> bool:
        return not self.public and secret == SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == ("none" if self.public else "client_secret_basic")

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


@functools.cache
def first_key() -> RSAKey:
    """The one that it has at first, in every test."""
    return new_key()


def new_key() -> RSAKey:
    key = RSAKey.generate_key(2048)
    key.ensure_kid()
    return key


class _Request(OAuth2Request):
    def __init__(self, method: str, path: str, form: dict[str, str], headers: dict[str, str]) -> None:
        # Authlib wants https, which this port does not have.
        super().__init__(method, f"https://provider{path}", headers=headers)
        self._form = form
        self.payload = BasicOAuth2Payload(form)

    @property
    def args(self) -> dict[str, str]:
        return self._form

    @property
    def form(self) -> dict[str, str]:
        return self._form


class _Server(AuthorizationServer):
    def __init__(self, provider: Provider) -> None:
        super().__init__()
        self.provider = provider
        self.register_token_generator("default", BearerTokenGenerator(lambda **_: f"access-{time.monotonic_ns()}"))

        class Grant(grants.AuthorizationCodeGrant):
            TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "none")

            def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
                data = request.payload.data
                provider.codes[code] = Code(
                    code,
                    data["redirect_uri"],
                    request.scope,
                    data["nonce"],
                    data["code_challenge"],
                    data["code_challenge_method"],
                    request.user,
                    int(time.time()),
                )

            def query_authorization_code(self, code: str, client: Provider) -> Code | None:
                return provider.codes.get(code)

            def delete_authorization_code(self, authorization_code: Code) -> None:
                del provider.codes[authorization_code.code]

            def authenticate_user(self, authorization_code: Code) -> Employee:
                return authorization_code.employee

        class IdTokens(OpenIDCode):
            def exists_nonce(self, nonce: str, request: OAuth2Request) -> bool:
                return any(one.nonce == nonce for one in provider.codes.values())

            def generate_user_info(self, user: Employee, scope: str) -> dict[str, Any]:
                return {"sub": user.sub, **({} if provider.in_user_info else claims_of(user))}

            def get_client_claims(self, client: Provider) -> dict[str, Any]:
                return {"iss": provider.issuer}

            def get_client_algorithm(self, client: Provider) -> str:
                return provider.algorithm

            def resolve_client_private_key(self, client: Provider) -> KeySet:
                return KeySet([signing_key(provider)])

            def encode_id_token(self, token: dict[str, Any], request: OAuth2Request) -> str:
                # As Authlib makes it, and signed again where something is to be wrong with it.
                encoded = super().encode_id_token(token, request)
                decoded = jwt.decode(encoded, KeySet([signing_key(provider)]), algorithms=[provider.algorithm])
                claims = {k: v for k, v in {**decoded.claims, **provider.spoiled}.items() if v is not None}
                key = signing_key(provider)
                return jwt.encode({"alg": provider.algorithm, "kid": key.kid}, claims, key, [provider.algorithm])

        self.register_grant(Grant, [CodeChallenge(required=True), IdTokens(require_nonce=True)])

    def query_client(self, client_id: str) -> Provider | None:
        return self.provider if client_id == CLIENT else None

    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        self.provider.tokens[token["access_token"]] = request.user

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """Nobody listens."""

    def create_oauth2_request(self, request: OAuth2Request) -> OAuth2Request:
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> Response:
        headers = dict(headers)
        location = headers.get("Location")
        if location:
            return RedirectResponse(location, status)
        return JSONResponse(body, status)


def signing_key(provider: Provider) -> RSAKey:
    return provider.signing or provider.keys[-1]


def claims_of(employee: Employee) -> dict[str, Any]:
    groups = list(employee.groups) if isinstance(employee.groups, tuple) else employee.groups
    return {"preferred_username": employee.name, "groups": groups}


def _application(provider: Provider) -> FastAPI:
    application, server = FastAPI(), _Server(provider)

    @application.middleware("http")
    async def noted(request: Request, call_next: Any) -> Response:
        provider.asked.append(request.url.path.removeprefix("/hospital"))
        answer: Response = await call_next(request) if provider.answers else Response("away", 503)
        return answer

    @application.get("/hospital/.well-known/openid-configuration")
    def described() -> dict[str, Any]:
        root = provider.issuer
        return {
            "issuer": root,
            "authorization_endpoint": f"{root}/authorize",
            "token_endpoint": f"{root}/token",
            "userinfo_endpoint": f"{root}/userinfo",
            "end_session_endpoint": f"{root}/end",
            "jwks_uri": f"{root}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        } | provider.described

    @application.get("/hospital/keys")
    def keys() -> Any:
        # A kind of key that nobody knows stands among them.
        others = [{"kty": "AKP", "kid": "new"}, {"kty": "RSA", "use": "enc", "kid": "enc", "n": "AQAB", "e": "AQAB"}]
        return {"keys": [*others, *KeySet(list(provider.keys)).as_dict()["keys"]]}

    @application.get("/hospital/authorize")
    def authorize(request: Request) -> Response:
        asked = _Request("GET", request.url.path, dict(request.query_params), {})
        if provider.refuses:
            back = f"{provider.redirect_uri}?error={provider.refuses}&state={asked.payload.state}"
            return RedirectResponse(back, 302)
        try:
            grant = server.get_consent_grant(asked, provider.employee)
        except OAuth2Error as error:
            return JSONResponse({"error": error.error, "description": error.description}, 400)
        answer: Response = server.create_authorization_response(asked, provider.employee, grant)
        return answer

    @application.post("/hospital/token")
    async def token(request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        headers = {name.title(): value for name, value in request.headers.items()}
        answer: Response = server.create_token_response(_Request("POST", request.url.path, form, headers))
        return answer

    @application.get("/hospital/userinfo")
    def user_info(request: Request) -> Response:
        employee = provider.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if employee is None:
            return Response(status_code=401)
        return JSONResponse({"sub": employee.sub, **claims_of(employee)})

    @application.get("/hospital/end")
    def end(request: Request) -> Response:
        provider.ended.append(dict(request.query_params))
        return RedirectResponse(request.query_params["post_logout_redirect_uri"], 302)

    return application


@contextlib.contextmanager
def hospital_provider(redirect_uri: str) -> Iterator[Provider]:
    """A provider that answers, for a client with this redirect URI."""
    provider = Provider(free_port(), redirect_uri)
    settings = uvicorn.Config(
        _application(provider), "127.0.0.1", provider.port, log_level="error", lifespan="off", access_log=False
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, seconds=60, what="the identity provider answers")
        yield provider
    finally:
        server.should_exit = True
        thread.join(60)

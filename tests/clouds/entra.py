"""Stubs of Azure's token services: Entra ID, a machine's IMDS, App Service's, and the program `az`.

They check what the real ones check of a request, sign the tokens that they give, and know afterwards
which of them are alive.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

TENANT = "11111111-aaaa-4aaa-8aaa-111111111111"
STORAGE = "https://storage.azure.com"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
CLUSTER = "https://oidc.cluster.example.com/"

CANARY = "CANARY-PQRS"
"""Stands in every answer that refuses something: no error message may repeat it."""


@dataclass
class Application:
    """An application of the tenant, and what it may show."""

    client_id: str
    secrets: set = field(default_factory=set)
    expired_secrets: set = field(default_factory=set)
    certificates: list = field(default_factory=list)
    subjects: set = field(default_factory=set)
    """Subjects of the cluster's tokens that it trusts."""


class Refused(Exception):
    """An answer that is no token."""

    def __init__(self, status, error, description):
        super().__init__(description)
        self.status, self.error, self.description = status, error, description


class Entra:
    """The token services of one tenant, over plain HTTP; `url` is where they answer.

    Entra ID itself is only to be had over TLS: let tls.Front send its host's requests to `answer`.
    """

    def __init__(self, life=3600):
        self.life = life
        self.key = rsa.generate_private_key(65537, 2048)
        self.cluster_key = rsa.generate_private_key(65537, 2048)
        self.applications = {}
        self.identities = {None: "22222222-0000-4000-8000-000000000000"}
        """The machine's managed identities: client id asked for -> client id in the token."""
        self.identity_header = "app-service-" + uuid.uuid4().hex
        self.logged_in = True
        self.issued = {}
        self.requests = []
        self._assertions = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def application(self, client_id, **shown):
        """Register an application."""
        self.applications[client_id] = Application(client_id, **shown)
        return self.applications[client_id]

    def cluster_token(self, subject, audience="api://AzureADTokenExchange", life=600):
        """Return what a Kubernetes cluster would mount for a service account."""
        now = int(time.time())
        claims = {"iss": CLUSTER, "sub": subject, "aud": audience, "iat": now, "exp": now + life}
        return jwt.encode(claims, self.cluster_key, algorithm="RS256")

    def issue(self, **claims):
        """Return a token for storage that `checked` accepts while it lives."""
        now = int(time.time())
        claims = {
            "aud": STORAGE,
            "iss": f"https://sts.windows.net/{TENANT}/",
            "iat": now,
            "exp": now + self.life,
            "tid": TENANT,
            "jti": uuid.uuid4().hex,
            **claims,
        }
        token = jwt.encode(claims, self.key, algorithm="RS256")
        self.issued[token] = claims
        return token

    def checked(self, token):
        """Return the claims of a token that storage may accept; raises Refused."""
        try:
            return jwt.decode(token, self.key.public_key(), algorithms=["RS256"], audience=STORAGE)
        except jwt.PyJWTError as error:
            raise Refused(401, "InvalidAuthenticationInfo", str(error)) from None

    # --- Entra ID -------------------------------------------------------------------------------

    def answer(self, method, url, headers, body):
        """Return status and JSON for one request to Entra ID, IMDS or App Service."""
        parts = urlsplit(url)
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        form = {k: v[0] for k, v in parse_qs(body.decode()).items()}
        headers = {k.lower(): v for k, v in headers.items()}
        self.requests.append((method, parts.path, query, form))
        try:
            if parts.path == "/metadata/identity/oauth2/token":
                return 200, self._imds(query, headers)
            if parts.path == "/msi/token":
                return 200, self._app_service(query, headers)
            if parts.path == "/az/token":
                return 200, self._az(query)
            if parts.path == "/common/discovery/instance":
                return 200, _instances()
            host = headers.get("host", "login.microsoftonline.com")
            return 200, self._entra(method, parts.path, host, form)
        except Refused as refused:
            if parts.path.startswith("/msi/"):
                return refused.status, {"statusCode": refused.status, "message": refused.description}
            text = f"{refused.description} {CANARY} Trace ID: {uuid.uuid4()}"
            return refused.status, {"error": refused.error, "error_description": text}

    def _entra(self, method, path, host, form):
        tenant, _, rest = path.strip("/").partition("/")
        if tenant != TENANT:
            raise Refused(400, "invalid_tenant", f"AADSTS90002: Tenant '{tenant}' not found.")
        token_endpoint = f"https://{host}/{TENANT}/oauth2/v2.0/token"
        if rest == "v2.0/.well-known/openid-configuration":
            return {
                "issuer": f"https://{host}/{TENANT}/v2.0",
                "token_endpoint": token_endpoint,
                "authorization_endpoint": f"https://{host}/{TENANT}/oauth2/v2.0/authorize",
            }
        if (method, rest) != ("POST", "oauth2/v2.0/token"):
            raise Refused(404, "not_found", f"AADSTS900144: no such endpoint: {method} {path}")
        if form.get("grant_type") != "client_credentials":
            raise Refused(400, "unsupported_grant_type", "AADSTS70003: The grant type is not supported.")
        if f"{STORAGE}/.default" not in form.get("scope", "").split():
            raise Refused(400, "invalid_scope", "AADSTS70011: The provided value for scope is not valid.")
        application = self.applications.get(form.get("client_id"))
        if application is None:
            text = f"AADSTS700016: Application with identifier '{form.get('client_id')}' was not found"
            raise Refused(400, "unauthorized_client", text)
        if "client_assertion" in form:
            self._check_assertion(application, form, token_endpoint)
        else:
            self._check_secret(application, form.get("client_secret"))
        token = self.issue(appid=application.client_id, oid=f"oid-of-{application.client_id}")
        return {"token_type": "Bearer", "expires_in": self.life, "access_token": token}

    def _check_secret(self, application, secret):
        if secret in application.expired_secrets:
            raise Refused(
                401, "invalid_client", "AADSTS7000222: The provided client secret keys are expired."
            )
        if secret not in application.secrets:
            text = f"AADSTS7000215: Invalid client secret provided: {secret}."
            raise Refused(401, "invalid_client", text)

    def _check_assertion(self, application, form, token_endpoint):
        assertion = form["client_assertion"]
        if form.get("client_assertion_type") != ASSERTION:
            raise Refused(400, "invalid_request", "AADSTS900144: client_assertion_type is wrong")
        issuer = jwt.decode(assertion, options={"verify_signature": False}).get("iss")
        if issuer == CLUSTER:
            self._check_federated(application, assertion)
        else:
            self._check_certificate(application, assertion, token_endpoint)

    def _check_federated(self, application, assertion):
        try:
            claims = jwt.decode(
                assertion,
                self.cluster_key.public_key(),
                algorithms=["RS256"],
                audience="api://AzureADTokenExchange",
                issuer=CLUSTER,
            )
        except jwt.ExpiredSignatureError:
            text = "AADSTS700024: Client assertion is not within its valid time range."
            raise Refused(401, "invalid_client", text) from None
        except jwt.PyJWTError as error:
            raise Refused(401, "invalid_client", f"AADSTS700211: No matching record: {error}") from None
        if claims["sub"] not in application.subjects:
            text = f"AADSTS700213: No matching federated identity record found for subject '{claims['sub']}'"
            raise Refused(401, "invalid_client", text)

    def _check_certificate(self, application, assertion, token_endpoint):
        header = jwt.get_unverified_header(assertion)
        by_thumbprint = {
            _encoded(c.fingerprint(algorithm)): c
            for c in application.certificates
            for algorithm in (hashes.SHA1(), hashes.SHA256())
        }
        certificate = by_thumbprint.get((header.get("x5t#S256") or header.get("x5t", "")).rstrip("="))
        if certificate is None:
            text = "AADSTS700027: The certificate with identifier used to sign the client assertion is not registered"
            raise Refused(401, "invalid_client", text)
        try:
            claims = jwt.decode(
                assertion,
                certificate.public_key(),
                algorithms=["RS256", "PS256"],
                audience=token_endpoint,
                issuer=application.client_id,
                options={"require": ["exp", "jti", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise Refused(401, "invalid_client", f"AADSTS700027: Assertion failed: {error}") from None
        if claims["sub"] != application.client_id or claims["jti"] in self._assertions:
            raise Refused(401, "invalid_client", "AADSTS700023: subject or jti of the assertion is wrong")
        self._assertions.add(claims["jti"])

    # --- a machine's own ------------------------------------------------------------------------

    def _imds(self, query, headers):
        if headers.get("metadata", "").lower() != "true" or "x-forwarded-for" in headers:
            raise Refused(400, "bad_request_102", "Required metadata header not specified")
        if query.get("api-version") != "2018-02-01":
            raise Refused(400, "invalid_request", "api-version is wrong")
        return self._managed(query)

    def _app_service(self, query, headers):
        if headers.get("x-identity-header") != self.identity_header:
            raise Refused(401, "unauthorized", "X-IDENTITY-HEADER is wrong")
        if query.get("api-version") != "2019-08-01":
            raise Refused(400, "invalid_request", "api-version is wrong")
        return self._managed(query)

    def _managed(self, query):
        if query.get("resource", "").rstrip("/") != STORAGE:
            raise Refused(400, "invalid_resource", f"AADSTS500011: no resource {query.get('resource')}")
        client_id = self.identities.get(query.get("client_id"))
        if client_id is None:
            raise Refused(400, "invalid_request", "Identity not found")
        machine = "/subscriptions/s/resourcegroups/g/providers/Microsoft.Compute/virtualMachines/vm7"
        token = self.issue(appid=client_id, oid=f"oid-of-{client_id}", xms_mirid=machine)
        return {
            "access_token": token,
            "client_id": client_id,
            "expires_in": str(self.life),
            "expires_on": str(self.issued[token]["exp"]),
            "resource": query["resource"],
            "token_type": "Bearer",
        }

    # --- the program `az` -----------------------------------------------------------------------

    def _az(self, query):
        if not self.logged_in:
            raise Refused(401, "interaction_required", "Please run 'az login' to setup account.")
        token = self.issue(
            upn="ana@contoso.com", oid="oid-of-ana", appid="04b07795-8ddb-461a-bbee-02f9e1bf7b46"
        )
        return {
            "accessToken": token,
            "expires_on": self.issued[token]["exp"],
            "subscription": "s",
            "tenant": query.get("tenant", TENANT),
            "tokenType": "Bearer",
        }

    def install_az(self, folder):
        """Write a program `az` that knows `az account get-access-token` into `folder`."""
        folder.mkdir(exist_ok=True)
        program = folder / "az"
        program.write_text(f"#!{sys.executable}\n{AZ.replace('URL', self.url)}")
        program.chmod(0o755)
        return folder


AZ = """
import argparse, json, sys, urllib.error, urllib.request
parser = argparse.ArgumentParser("az")
parser.add_argument("words", nargs=2)
parser.add_argument("--output", required=True)
parser.add_argument("--resource", required=True)
parser.add_argument("--tenant")
given = parser.parse_args()
assert (given.words, given.output) == (["account", "get-access-token"], "json"), given
assert given.resource == "https://storage.azure.com", given
query = f"?tenant={given.tenant}" if given.tenant else ""
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    print(opener.open("URL/az/token" + query).read().decode())
except urllib.error.HTTPError as error:
    sys.exit("ERROR: " + json.load(error)["error_description"])
"""


def _instances():
    hosts = ["login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"]
    return {
        "tenant_discovery_endpoint": f"https://{hosts[0]}/{TENANT}/v2.0/.well-known/openid-configuration",
        "api-version": "1.1",
        "metadata": [
            {"preferred_network": hosts[0], "preferred_cache": "login.windows.net", "aliases": hosts}
        ],
    }


def _encoded(digest):
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _handler(entra):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, told = entra.answer(self.command, self.path, dict(self.headers), body)
            content = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *args):
            pass

    return Handler

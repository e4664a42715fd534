"""Google as meshql sees it: token endpoint, token exchange, IAM Credentials API, metadata server, tokeninfo,
and a Cloud Storage that takes access tokens, in front of an S3 emulator.

Each checks what the real one checks, and answers as the real one does; a token of theirs lives `lifetime`
seconds and opens what its scope allows.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
IAM = "https://www.googleapis.com/auth/iam"
STORAGE = "https://www.googleapis.com/auth/devstorage."

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
AWS_REQUEST = "urn:ietf:params:aws:token-type:aws4_request"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


@dataclass(frozen=True)
class Grant:
    """What a token stands for."""

    principal: str
    scopes: tuple[str, ...]
    ends: float

    def allows(self, *wanted):
        return any(scope.startswith(wanted) or scope == CLOUD_PLATFORM for scope in self.scopes)


@dataclass
class Google:
    """The state behind the stub services; every refusal is what they said no to, for tests to look at.

    With `readers`, Cloud Storage takes the tokens of these principals only.
    """

    url: str = ""
    lifetime: int = 3600
    skew: timedelta = timedelta()
    tokens: dict = field(default_factory=dict)
    accounts: dict = field(default_factory=dict)
    logins: dict = field(default_factory=dict)
    providers: dict = field(default_factory=dict)
    creators: set = field(default_factory=set)
    readers: set | None = None
    machine: str | None = "machine@project.iam.gserviceaccount.com"
    failing: int | None = None
    requests: list = field(default_factory=list)

    @property
    def host(self):
        return urlsplit(self.url).netloc

    def now(self):
        return datetime.now(UTC) + self.skew

    def issue(self, principal, scopes, lifetime=None):
        token = f"ya29.{secrets.token_urlsafe(40)}"
        seconds = min(lifetime or self.lifetime, self.lifetime)
        self.tokens[token] = Grant(principal, tuple(scopes), time.time() + seconds)
        return token, seconds

    def grant(self, authorization):
        """The grant behind an Authorization header; None unless its token is live."""
        kind, _, token = (authorization or "").partition(" ")
        found = self.tokens.get(token) if kind == "Bearer" else None
        return found if found and found.ends > time.time() else None

    def service_account(self, email):
        """Make a service account with a key, and return the key's JSON as Google gives it out."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        key_id = secrets.token_hex(20)
        self.accounts[email] = (key_id, key.public_key())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": key_id,
            "private_key": pem.decode(),
            "client_email": email,
            "client_id": "1234567890",
            "token_uri": f"{self.url}/token",
            "universe_domain": "googleapis.com",
        }

    def login(self, email, scopes=(CLOUD_PLATFORM, "openid", "email")):
        """Log a user in, and return the JSON that gcloud auth application-default login leaves."""
        refresh, secret = f"1//{secrets.token_urlsafe(48)}", f"GOCSPX-{secrets.token_urlsafe(21)}"
        self.logins[refresh] = (email, secret, scopes)
        return {
            "type": "authorized_user",
            "account": "",
            "client_id": "764086051850.apps.googleusercontent.com",
            "client_secret": secret,
            "refresh_token": refresh,
            "universe_domain": "googleapis.com",
        }

    def impersonating(self, source, target):
        """Return the JSON that gcloud leaves of a login that impersonates a service account."""
        return {
            "type": "impersonated_service_account",
            "delegates": [],
            "service_account_impersonation_url": (
                f"{self.url}/v1/projects/-/serviceAccounts/{target}:generateAccessToken"
            ),
            "source_credentials": source,
        }

    def provider(self, subject_token, principal, source, impersonates=None):
        """Trust another provider's token, and return the credential configuration for it."""
        pool = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool/providers/ci"
        self.providers[subject_token] = (pool, principal)
        info = {
            "type": "external_account",
            "audience": pool,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{self.url}/v1/token",
            "credential_source": source,
        }
        if impersonates:
            info["service_account_impersonation_url"] = (
                f"{self.url}/v1/projects/-/serviceAccounts/{impersonates}:generateAccessToken"
            )
        return info


def _refuse(status, error, description):
    return status, {"error": error, "error_description": description}


def _api_error(status, code, message):
    return status, {"error": {"code": status, "message": message, "status": code}}


def _token(google, form, headers):
    """https://oauth2.googleapis.com/token"""
    if form.get("grant_type") == "refresh_token":
        known = google.logins.get(form.get("refresh_token"))
        if not known:
            return _refuse(400, "invalid_grant", "Token has been expired or revoked.")
        email, secret, scopes = known
        if form.get("client_secret") != secret:
            return _refuse(401, "invalid_client", "The provided client secret is invalid.")
        token, seconds = google.issue(email, scopes)
        return 200, {"access_token": token, "expires_in": seconds, "scope": " ".join(scopes)}
    if form.get("grant_type") != JWT_BEARER:
        return _refuse(400, "unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type')}")
    return _assertion(google, form["assertion"])


def _assertion(google, assertion):
    email = jwt.decode(assertion, options={"verify_signature": False}).get("iss")
    if email not in google.accounts:
        return _refuse(400, "invalid_grant", f"Invalid grant: account not found: {assertion}")
    key_id, public = google.accounts[email]
    if jwt.get_unverified_header(assertion).get("kid") != key_id:
        return _refuse(400, "invalid_grant", "Invalid JWT Signature.")
    try:
        claims = jwt.decode(
            assertion,
            public,
            algorithms=["RS256"],
            audience=[f"{google.url}/token", "https://oauth2.googleapis.com/token"],
            options={"verify_exp": False, "verify_iat": False, "require": ["iss", "aud", "iat", "exp"]},
        )
    except jwt.InvalidTokenError:
        return _refuse(400, "invalid_grant", "Invalid JWT Signature.")
    now = google.now().timestamp()
    if not (now - 3600 < claims["iat"] < now + 300 and now < claims["exp"] <= claims["iat"] + 3600):
        return _refuse(
            400,
            "invalid_grant",
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
            " Check your iat and exp values in the JWT claim.",
        )
    if not claims.get("scope"):
        return _refuse(400, "invalid_scope", "Empty or missing scope not allowed.")
    token, seconds = google.issue(email, claims["scope"].split())
    return 200, {"access_token": token, "expires_in": seconds, "token_type": "Bearer"}


def _exchange(google, form, headers):
    """https://sts.googleapis.com/v1/token"""
    if form.get("grant_type") != EXCHANGE:
        return _refuse(400, "unsupported_grant_type", "The grant type is not supported.")
    if form.get("requested_token_type") != ACCESS_TOKEN or not form.get("scope"):
        return _refuse(400, "invalid_request", "Invalid requested token type or scope.")
    known = form.get("subject_token")
    if form.get("subject_token_type") == AWS_REQUEST:
        known = _aws_caller(known, form.get("audience"))
    audience, principal = google.providers.get(known, (None, None))
    if audience is None:
        # The real one may well repeat what it was given.
        return _refuse(400, "invalid_grant", f"The given credential is rejected: {form['subject_token']}")
    if form.get("audience") != audience:
        return _refuse(400, "invalid_target", "The target service indicated by the audience is invalid.")
    token, seconds = google.issue(principal, form["scope"].split())
    return 200, {
        "access_token": token,
        "issued_token_type": ACCESS_TOKEN,
        "token_type": "Bearer",
        "expires_in": seconds,
    }


def _aws_caller(subject_token, audience):
    """The access key that signed the request for its caller's identity, made out to the audience."""
    request = json.loads(unquote(subject_token))
    headers = {header["key"].lower(): header["value"] for header in request["headers"]}
    signed = re.search(
        r"Credential=(\w+)/\d+/([\w-]+)/sts/aws4_request, *SignedHeaders=(\S+),", headers["authorization"]
    )
    right = signed and "host" in signed[3].split(";") and request["method"] == "POST"
    right = right and request["url"].startswith(
        f"https://sts.{signed[2]}.amazonaws.com?Action=GetCallerIdentity"
    )
    return signed[1] if right and headers["x-goog-cloud-target-resource"] == audience else None


def _generate(google, target, body, headers):
    """https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/...:generateAccessToken"""
    source = google.grant(headers.get("Authorization"))
    if source is None:
        return _api_error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
    if not source.allows(IAM):
        return _api_error(403, "PERMISSION_DENIED", "Request had insufficient authentication scopes.")
    wanted = json.loads(body)
    seconds = wanted.get("lifetime", "3600s")
    if not seconds.endswith("s") or not 0 < int(seconds[:-1]) <= 3600 or not wanted.get("scope"):
        return _api_error(400, "INVALID_ARGUMENT", "Request contains an invalid argument.")
    prefix = "projects/-/serviceAccounts/"
    chain = [source.principal]
    for delegate in wanted.get("delegates") or []:
        if not delegate.startswith(prefix):
            return _api_error(400, "INVALID_ARGUMENT", f"Invalid delegate {delegate}")
        chain.append(delegate.removeprefix(prefix))
    chain.append(target)
    for link in pairwise(chain):
        if link not in google.creators:
            return _api_error(
                403,
                "PERMISSION_DENIED",
                "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).",
            )
    token, lived = google.issue(target, wanted["scope"], int(seconds[:-1]))
    ends = google.now() + timedelta(seconds=lived)
    return 200, {"accessToken": token, "expireTime": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}


def _metadata(google, path, query):
    """http://metadata.google.internal; the header was checked."""
    if path == "/":
        return 200, "computeMetadata/\n"
    if google.machine is None:
        return 404, "<html>404</html>"
    if path.endswith("/service-accounts/default/token"):
        token, seconds = google.issue(google.machine, query.get("scopes", CLOUD_PLATFORM).split(","))
        return 200, {"access_token": token, "expires_in": seconds, "token_type": "Bearer"}
    if path.endswith("/service-accounts/default/"):
        return 200, {"aliases": ["default"], "email": google.machine, "scopes": [CLOUD_PLATFORM]}
    return 404, "<html>404</html>"


def _tokeninfo(google, form, headers):
    """https://oauth2.googleapis.com/tokeninfo"""
    found = google.grant(f"Bearer {form.get('access_token')}")
    if found is None:
        return _refuse(400, "invalid_token", "Invalid Value")
    email = {"email": found.principal, "email_verified": "true"} if "email" in found.scopes else {}
    left = str(int(found.ends - time.time()))
    return 200, {"azp": "1234", "scope": " ".join(found.scopes), "expires_in": left, **email}


FORMS = {"/token": _token, "/v1/token": _exchange, "/tokeninfo": _tokeninfo}


class _Services(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    google: Google

    def do_GET(self):
        parts = urlsplit(self.path)
        if self.headers.get("Metadata-Flavor") != "Google":
            return self._answer(403, "<html>Missing Metadata-Flavor:Google header.</html>")
        return self._answer(*_metadata(self.google, parts.path, dict(parse_qsl(parts.query))))

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if self.google.failing:
            return self._answer(self.google.failing, "<html>Service Unavailable</html>")
        if path in FORMS:
            form = {key: values[0] for key, values in parse_qs(body.decode()).items()}
            return self._answer(*FORMS[path](self.google, form, self.headers))
        name, _, verb = unquote(path).rpartition("/")[2].partition(":")
        if verb == "generateAccessToken":
            return self._answer(*_generate(self.google, name, body, self.headers))
        return self._answer(404, "<html>404</html>")

    def send_response(self, code, message=None):
        self.send_response_only(code, message)
        self.send_header("Date", formatdate(self.google.now().timestamp(), usegmt=True))

    def _answer(self, status, content):
        self.google.requests.append((self.command, self.path, status))
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if text is not content else "text/html")
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


class _Storage(BaseHTTPRequestHandler):
    """Cloud Storage's XML API, and as much of its JSON API as readers need."""

    protocol_version = "HTTP/1.1"
    google: Google
    behind: str
    requests: list
    public: frozenset

    def _serve(self):
        parts = urlsplit(self.path)
        authorization = self.headers.get("Authorization")
        grant = self.google.grant(authorization)
        self.requests.append((self.command, self.path, authorization))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        bucket = parts.path.lstrip("/").partition("/")[0]
        if parts.path.startswith("/storage/v1/b/"):
            bucket = parts.path.split("/")[4]
        if grant is None and (authorization or bucket not in self.public):
            return self._xml(401, "AuthenticationRequired", "Authentication required.")
        readers = self.google.readers
        if grant and not (grant.allows(STORAGE) and (readers is None or grant.principal in readers)):
            return self._xml(403, "AccessDenied", "Access denied.")
        if parts.path.startswith("/storage/v1/b/"):
            return self._json_api(parts)
        return self._send(*self._forward(self.command, self.path, body))

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _serve

    def _forward(self, method, path, body=b""):
        """Ask the store behind, with a signature that it does not look at."""
        headers = {
            k: v for k, v in self.headers.items() if k.lower() in ("range", "content-type", "if-match")
        }
        date = datetime.now(UTC).strftime("%Y%m%d")
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential=front/{date}/us-east-1/s3/aws4_request, SignedHeaders=host, "
            f"Signature={hmac.new(b'front', date.encode(), hashlib.sha256).hexdigest()}"
        )
        connection = HTTPConnection(urlsplit(self.behind).netloc, timeout=30)
        try:
            connection.request(method, path, body=body or None, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _json_api(self, parts):
        """/storage/v1/b/BUCKET/o[/OBJECT[?alt=media]], by way of the XML API."""
        bucket, _, name = parts.path.removeprefix("/storage/v1/b/").partition("/o")
        query = dict(parse_qsl(parts.query))
        if name in ("", "/"):
            return self._json_list(bucket, query)
        path = f"/{bucket}/{quote(unquote(name[1:]))}"
        if query.get("alt") == "media":
            return self._send(*self._forward("GET", path))
        status, headers, _ = self._forward("HEAD", path)
        if status != 200:
            return self._send_json(status, {"error": {"code": status, "message": "No such object"}})
        lowered = {key.lower(): value for key, value in headers.items()}
        return self._send_json(200, _object(bucket, unquote(name[1:]), lowered["content-length"]))

    def _json_list(self, bucket, query):
        path = f"/{bucket}?list-type=2&prefix={quote(query.get('prefix', ''), safe='')}"
        status, _, text = self._forward("GET", path)
        space = "{http://s3.amazonaws.com/doc/2006-03-01/}"
        found = ElementTree.fromstring(text).iter(f"{space}Contents") if status == 200 else ()
        items = [_object(bucket, e.findtext(f"{space}Key"), e.findtext(f"{space}Size")) for e in found]
        return self._send_json(status, {"kind": "storage#objects", "items": items})

    def _xml(self, status, code, message):
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return self._send(status, {"Content-Type": "application/xml"}, text.encode())

    def _send_json(self, status, content):
        return self._send(status, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _send(self, status, headers, body):
        self.send_response(status)
        length = str(len(body))
        for key, value in headers.items():
            if key.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif key.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                self.send_header(key, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def _object(bucket, name, size):
    now = "2026-01-01T00:00:00.000Z"
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/1",
        "bucket": bucket,
        "name": name,
        "size": size,
        "generation": "1",
        "metageneration": "1",
        "timeCreated": now,
        "updated": now,
        "etag": "CAE=",
    }


@contextmanager
def serving(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def google_services():
    """Serve Google's identity services; yields their state."""
    google = Google()
    with serving(type("Services", (_Services,), {"google": google})) as url:
        google.url = url
        yield google


@dataclass(frozen=True)
class Front:
    """A Cloud Storage that takes access tokens; `requests` are method, path and Authorization of each."""

    url: str
    requests: list


@contextmanager
def google_storage(google, behind, public=()):
    """Serve Cloud Storage over the S3 emulator at the URL `behind`; `public` buckets take no token too."""
    requests = []
    known = {"google": google, "behind": behind, "requests": requests, "public": frozenset(public)}
    with serving(type("Storage", (_Storage,), known)) as url:
        yield Front(url, requests)

"""Services of AWS around an emulated S3: STS and S3 behind a front that records, and machines' metadata.

Each checks what the real one checks: signatures and policies (moto), tokens, headers, regions, who pays.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import botocore.session
import jwt
from botocore.config import Config
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ACCOUNT = "123456789012"


@dataclass(frozen=True)
class Asked:
    """A request that a service got."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self):
        return urlsplit(self.url).path

    @property
    def query(self):
        return {name: values[0] for name, values in parse_qs(urlsplit(self.url).query).items()}

    @property
    def form(self):
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}

    @property
    def host(self):
        return self.headers.get("host", "")

    @property
    def scope(self):
        """Key id, region and service of the signature; three None without one."""
        found = re.search(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/", self.headers.get("authorization", ""))
        return found.groups() if found else (None, None, None)

    @property
    def key_id(self):
        return self.scope[0]

    @property
    def signed(self):
        """Names of the headers that the signature covers."""
        found = re.search(r"SignedHeaders=([^,]+)", self.headers.get("authorization", ""))
        return found[1].split(";") if found else []


class Service:
    """A server on a port of its own that keeps what it was asked; subclasses answer."""

    def __init__(self):
        self.asked = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, body)
                service.asked.append(asked)
                status, headers, body = service.answer(asked)
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "content-length" not in {name.lower() for name in headers}:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = answer

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, asked):
        raise NotImplementedError

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def json_answer(status, value, **headers):
    return status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()


def sts_error(code, message, status=403):
    body = f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    return status, {"Content-Type": "text/xml"}, body.encode()


def s3_error(code, message, status, **elements):
    more = "".join(f"<{name}>{value}</{name}>" for name, value in elements.items())
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return status, {"Content-Type": "application/xml"}, body.encode()


@dataclass(frozen=True)
class Issuer:
    """An OpenID Connect provider: it signs the tokens of workloads."""

    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    url: str = "https://oidc.example.com/id/CLUSTER"

    def token(self, *, audience="sts.amazonaws.com", lives=600, subject="system:serviceaccount:data:reader"):
        ends = datetime.now(UTC) + timedelta(seconds=lives)
        claims = {"iss": self.url, "sub": subject, "aud": audience, "exp": ends}
        return jwt.encode(claims, self.key, "RS256")

    def check(self, token):
        """Return the claims of a token for AWS; raises jwt.InvalidTokenError."""
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return jwt.decode(token, public, ["RS256"], audience="sts.amazonaws.com", issuer=self.url)


class Front(Service):
    """S3 and STS of an account: moto, which checks signatures and policies, and what moto does not check.

    `region` is where all buckets lie; `requester_pays` names those that others pay for. With `admits`, only
    the keys of that user or role read; `owners` says whose keys are whose. It answers an HTTP proxy's
    requests too.
    """

    def __init__(self, moto, platform, issuer):
        super().__init__()
        self._moto = urlsplit(moto).netloc
        self._platform = platform
        self.issuer = issuer
        self.region = "eu-west-1"
        self.requester_pays = set()
        self.admits = None
        self.owners = {}

    @property
    def readers(self):
        """Whose keys signed the requests to S3; None stands for keys of nobody known, and for none."""
        return {self.owners.get(asked.key_id) for asked in self.reads}

    @property
    def reads(self):
        """The requests to S3."""
        return [asked for asked in self.asked if asked.scope[2] != "sts" and asked.method in ("GET", "HEAD")]

    @property
    def calls(self):
        """The calls of STS, as (action, request)."""
        return [(asked.form["Action"], asked) for asked in self.asked if asked.method == "POST"]

    def answer(self, asked):
        if asked.method == "POST" and asked.form.get("Action") == "AssumeRoleWithWebIdentity":
            return self._web_identity(asked)
        if asked.method == "POST" and asked.form.get("Action") == "AssumeRole":
            return self._assume_role(asked)
        _, region, service = asked.scope
        if service == "s3" and region != self.region:
            return self._elsewhere(region)
        if self.admits and self.owners.get(asked.key_id) != self.admits:
            return s3_error("AccessDenied", "Access Denied", 403)
        bucket = asked.host.partition(".")[0] if asked.host[-1:].isalpha() else asked.path.split("/")[1]
        pays = asked.headers.get("x-amz-request-payer") == "requester"
        if bucket in self.requester_pays and not (pays and "x-amz-request-payer" in asked.signed):
            return s3_error("AccessDenied", "Access Denied", 403)
        return self._forward(asked)

    def _forward(self, asked):
        parts = urlsplit(asked.url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection = HTTPConnection(self._moto, timeout=30)
        try:
            connection.putrequest(asked.method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in asked.headers.items():
                if name not in ("connection", "proxy-connection"):
                    connection.putheader(name, value)
            connection.endheaders(asked.body)
            got = connection.getresponse()
            dropped = ("connection", "transfer-encoding", "server", "date")
            headers = {name: value for name, value in got.getheaders() if name.lower() not in dropped}
            return got.status, headers, got.read()
        finally:
            connection.close()

    def _elsewhere(self, region):
        message = f"The authorization header is malformed; the region '{region}' is wrong; expecting '{self.region}'"
        return s3_error("AuthorizationHeaderMalformed", message, 400, Region=self.region)

    def _assume_role(self, asked):
        """moto refuses a wrong external id, and lets those in that give none."""
        role = asked.form["RoleArn"]
        if role == arn("partner") and "ExternalId" not in asked.form:
            user = f"arn:aws:iam::{ACCOUNT}:user/analyst"
            return sts_error(
                "AccessDenied",
                f"User: {user} is not authorized to perform: sts:AssumeRole on resource: {role}",
            )
        status, headers, body = self._forward(asked)
        if key := re.search(rb"<AccessKeyId>(\w+)</", body):
            self.owners[key[1].decode()] = role.rpartition("/")[2]
        return status, headers, body

    def _web_identity(self, asked):
        """moto takes any token, and with its policies on no unsigned request at all."""
        form = asked.form
        if "authorization" in asked.headers:
            return sts_error("SignatureDoesNotMatch", "this call is not signed")
        try:
            self.issuer.check(form["WebIdentityToken"])
        except jwt.ExpiredSignatureError:
            return sts_error("ExpiredTokenException", f"Token expired: {form['WebIdentityToken']}", 400)
        except jwt.InvalidTokenError:
            return sts_error("InvalidIdentityToken", f"No provider for {form['WebIdentityToken']}", 400)
        issued = self._platform.assume_role(RoleArn=form["RoleArn"], RoleSessionName=form["RoleSessionName"])[
            "Credentials"
        ]
        self.owners[issued["AccessKeyId"]] = form["RoleArn"].rpartition("/")[2]
        issued["Expiration"] = issued["Expiration"].isoformat()
        elements = "".join(f"<{name}>{value}</{name}>" for name, value in issued.items())
        body = (
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            f"<AssumeRoleWithWebIdentityResult><Credentials>{elements}</Credentials>"
            "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        )
        return 200, {"Content-Type": "text/xml"}, body.encode()


class InstanceMetadata(Service):
    """IMDSv2: a token for a PUT that says how long it lives, and answers for that token only."""

    TOKEN = "imds-session-token=="

    def __init__(self, role, credentials):
        super().__init__()
        self.role, self.credentials = role, credentials
        self.gives_tokens = True

    def answer(self, asked):
        if asked.path == "/latest/api/token":
            return self._token(asked)
        if asked.headers.get("x-aws-ec2-metadata-token") != self.TOKEN:
            return 401, {}, b""
        root = "/latest/meta-data/iam/security-credentials/"
        if asked.path == root and self.role:
            return 200, {"Content-Type": "text/plain"}, self.role.encode()
        if self.role and asked.path == root + self.role:
            value = {"Code": "Success", "Type": "AWS-HMAC", **metadata(self.credentials)}
            return json_answer(200, value)
        return 404, {}, b"<html>Not Found</html>"

    def _token(self, asked):
        if not self.gives_tokens or "x-forwarded-for" in asked.headers:
            return 403, {}, b""
        seconds = asked.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        if asked.method != "PUT" or not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
            return 400, {}, b""
        return 200, {}, self.TOKEN.encode()


class ContainerCredentials(Service):
    """The endpoint of ECS and of EKS pod identities: credentials for whoever shows the token."""

    def __init__(self, token, credentials):
        super().__init__()
        self.token, self.credentials = token, credentials

    def answer(self, asked):
        if asked.method != "GET" or asked.path != "/v1/credentials":
            return json_answer(404, {"code": "NotFound"})
        if asked.headers.get("authorization") != self.token:
            return json_answer(403, {"message": f"not the token: {asked.headers.get('authorization')}"})
        return json_answer(200, {"RoleArn": "arn", **metadata(self.credentials)})


class SsoPortal(Service):
    """The portal of IAM Identity Center: a role's credentials for whoever shows the login's token."""

    def __init__(self, token, role, credentials):
        super().__init__()
        self.token, self.role, self.credentials = token, role, credentials

    def answer(self, asked):
        if asked.path != "/federation/credentials":
            return json_answer(404, {})
        if asked.headers.get("x-amz-sso_bearer_token") != self.token:
            return self._refusal(401, "UnauthorizedException")
        if asked.query != {"role_name": self.role, "account_id": ACCOUNT}:
            return self._refusal(403, "ForbiddenException")
        issued = self.credentials
        value = {
            "accessKeyId": issued["AccessKeyId"],
            "secretAccessKey": issued["SecretAccessKey"],
            "sessionToken": issued["SessionToken"],
            "expiration": int(issued["Expiration"].timestamp() * 1000),
        }
        return json_answer(200, {"roleCredentials": value})

    def _refusal(self, status, kind):
        return json_answer(
            status, {"message": "Session token not found or invalid"}, **{"x-amzn-ErrorType": kind}
        )


def metadata(issued):
    """Return what STS issued as machines' services write it."""
    return {
        "AccessKeyId": issued["AccessKeyId"],
        "SecretAccessKey": issued["SecretAccessKey"],
        "Token": issued["SessionToken"],
        "Expiration": issued["Expiration"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


@dataclass(frozen=True)
class Account:
    """An AWS account in moto: a user `analyst` with keys, and roles by name; its policies are enforced."""

    moto: str
    key_id: str
    secret: str
    sts: object
    owners: dict
    """Whose keys were given out here: the user or role, by the key's id."""

    @classmethod
    def create(cls, moto, put):
        """Set the account up; `put(s3 client)` fills its buckets."""
        admin = _client("iam", moto, "setup", "setup")
        allow = {"Statement": [{"Effect": "Allow", "Action": ["s3:*", "sts:*"], "Resource": "*"}]}
        nothing = {"Statement": [{"Effect": "Deny", "Action": "s3:*", "Resource": "*"}]}
        admin.create_user(UserName="analyst")
        admin.put_user_policy(UserName="analyst", PolicyName="all", PolicyDocument=_document(allow))
        for name, policy, condition in (
            ("reader", allow, {}),
            ("first", allow, {}),
            ("partner", allow, {"Condition": {"StringEquals": {"sts:ExternalId": "tenant-42"}}}),
            ("powerless", nothing, {}),
        ):
            trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole", **condition}
            admin.create_role(RoleName=name, AssumeRolePolicyDocument=_document({"Statement": [trust]}))
            admin.put_role_policy(RoleName=name, PolicyName="all", PolicyDocument=_document(policy))
        put(_client("s3", moto, "setup", "setup"))
        key = admin.create_access_key(UserName="analyst")["AccessKey"]
        _post(moto, "/moto-api/reset-auth", "0")
        key_id, secret = key["AccessKeyId"], key["SecretAccessKey"]
        sts = _client("sts", moto, key_id, secret)
        return cls(moto, key_id, secret, sts, {key_id: "analyst"})

    def issue(self, role="reader"):
        """Return temporary credentials of a role, as STS writes them."""
        issued = self.sts.assume_role(RoleArn=arn(role), RoleSessionName="issued")["Credentials"]
        self.owners[issued["AccessKeyId"]] = role
        return issued


def arn(role):
    return f"arn:aws:iam::{ACCOUNT}:role/{role}"


def _document(policy):
    return json.dumps({"Version": "2012-10-17", **policy})


def _client(service, endpoint, key_id, secret):
    return botocore.session.Session().create_client(
        service,
        "eu-west-1",
        endpoint_url=endpoint,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}),
    )


def _post(endpoint, path, body):
    connection = HTTPConnection(urlsplit(endpoint).netloc, timeout=30)
    connection.request("POST", path, body)
    assert connection.getresponse().status == 200
    connection.close()

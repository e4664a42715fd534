"""How each method of AWS finds its keys: what is set up on a machine of an account, and the `auth` for it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import textwrap
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import botocore.tokens

from clouds.aws_services import ContainerCredentials, InstanceMetadata, SsoPortal, arn, metadata


def without_aws(patch, home):
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name)
    patch.setenv("HOME", str(home))
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@contextmanager
def machine_of(issued):
    """Run what machines offer: services that give these credentials of role reader, by name."""
    services = {
        "imds": InstanceMetadata("reader", issued),
        "container": ContainerCredentials("container-secret", issued),
        "sso": SsoPortal("sso-token", "reader", issued),
    }
    with ExitStack() as stack:
        for service in services.values():
            stack.enter_context(service)
        yield services


class World:
    """What a method's setting may use."""

    def __init__(self, **given):
        self.__dict__.update(given)


def keys_of(account):
    return {"key_id": account.key_id, "secret": account.secret}


def program(home, printed):
    """Write a program that prints credentials, and return its command line."""
    script = home / "give keys.py"
    script.write_text(f"print({json.dumps(printed)!r})")
    return f'{sys.executable} "{script}"'


def config(home, text, file="config"):
    (home / ".aws" / file).write_text(textwrap.dedent(text))


def sso_login(home, portal, monkeypatch, *, ends=timedelta(hours=8)):
    """Log in to the portal as `aws sso login --profile sso` does."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", portal.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SSO_OIDC", portal.endpoint)
    url = "https://example.awsapps.com/start"
    config(
        home,
        f"""
        [profile sso]
        sso_session = corp
        sso_account_id = 123456789012
        sso_role_name = reader
        [sso-session corp]
        sso_start_url = {url}
        sso_region = eu-west-1
        """,
    )
    cache = home / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    # botocore looked for the home when it was imported.
    monkeypatch.setattr(botocore.tokens.SSOTokenProvider, "_SSO_TOKEN_CACHE_DIR", str(cache))
    token = {
        "startUrl": url,
        "region": "eu-west-1",
        "accessToken": portal.token,
        "expiresAt": f"{datetime.now(UTC) + ends:%Y-%m-%dT%H:%M:%SZ}",
    }
    (cache / f"{hashlib.sha1(b'corp').hexdigest()}.json").write_text(json.dumps(token))


def profile_of_keys(w):
    config(
        w.home,
        f"[plain]\naws_access_key_id={w.account.key_id}\naws_secret_access_key={w.account.secret}",
        "credentials",
    )
    return {"method": "profile", "profile": "plain"}


def profile_of_process(w):
    issued = metadata(w.account.issue())
    printed = {"Version": 1, "SessionToken": issued["Token"], **issued}
    config(w.home, f"[profile tool]\ncredential_process = {program(w.home, printed)}\n")
    return {"method": "profile", "profile": "tool"}


def profile_of_role(w):
    profile_of_keys(w)
    config(w.home, f"[profile role]\nrole_arn = {arn('reader')}\nsource_profile = plain\n")
    return {"method": "profile", "profile": "role"}


def profile_of_sso(w):
    sso_login(w.home, w.machine["sso"], w.monkeypatch)
    return {"method": "profile", "profile": "sso"}


def environment(w):
    w.monkeypatch.setenv("AWS_ACCESS_KEY_ID", w.account.key_id)
    w.monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", w.account.secret)
    return "env"


def default_of_environment(w):
    environment(w)
    return "default"


def default_of_profile(w):
    profile_of_role(w)
    w.monkeypatch.setenv("AWS_PROFILE", "role")
    return "default"


def default_of_instance(w):
    instance_role(w)
    return "default"


def process(w):
    issued = metadata(w.account.issue())
    return {
        "method": "process",
        "command": program(w.home, {"Version": 1, "SessionToken": issued["Token"], **issued}),
    }


def instance_role(w):
    w.monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    w.monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", w.machine["imds"].endpoint)
    return "instance_role"


def container_role(w):
    url = w.machine["container"].endpoint + "/v1/credentials"
    w.monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
    w.monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-secret")
    return "container_role"


def pod_identity(w):
    container_role(w)
    (w.home / "pod-token").write_text("container-secret")
    w.monkeypatch.delenv("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    w.monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(w.home / "pod-token"))
    return "container_role"


def web_identity(w):
    (w.home / "oidc").write_text(w.front.issuer.token())
    return {"method": "web_identity", "role_arn": arn("reader"), "token_file": str(w.home / "oidc")}


def web_identity_of_environment(w):
    auth = web_identity(w)
    w.monkeypatch.setenv("AWS_ROLE_ARN", auth["role_arn"])
    w.monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", auth["token_file"])
    return "web_identity"


def role(w, name="reader", **more):
    source = more.pop("source", {"method": "keys", **keys_of(w.account)})
    return {"method": "assume_role", "role_arn": arn(name), "source": source, **more}


def role_with_external_id(w):
    return role(w, "partner", external_id="tenant-42")


def role_of_default(w):
    default_of_environment(w)
    return {"method": "assume_role", "role_arn": arn("reader")}


def chain(w):
    return role(w, source=role(w, "first"))


def keys(w):
    return {"method": "keys", **keys_of(w.account)}

"""Google identities: every method against stubs that check what Google checks, and what their failures say."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler

import pytest
from clouds.google import CLOUD_PLATFORM, STORAGE, google_services, serving
from pydantic import TypeAdapter

from meshql.catalog.connections import GcsConnection
from meshql.errors import CredentialsError, UnreachableError
from meshql.identity.broker import Broker
from meshql.identity.credentials import BearerToken
from meshql.identity.gcp import identify

READER = "reader@project.iam.gserviceaccount.com"
ROBOT = "robot@project.iam.gserviceaccount.com"
RELAY = "relay@project.iam.gserviceaccount.com"


@pytest.fixture
def google():
    with google_services() as google:
        yield google


@pytest.fixture
def file(tmp_path):
    """A function that writes JSON into a file and returns its path."""

    def write(content, name="credentials.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def connection(auth, **more):
    return TypeAdapter(GcsConnection).validate_python(
        {"name": "lake", "cloud": "gcs", "insecure": True, "auth": auth, **more}
    )


def fetch(auth, google=None, **environ):
    """The credentials that the broker finds; nothing of the machine's own is there to be found."""
    alone = {"CLOUDSDK_CONFIG": "/nowhere", "NO_GCE_CHECK": "true"}
    if google:
        alone["CLOUDSDK_AUTH_TOKEN_HOST"] = f"{google.url}/token"
        alone["CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS"] = f"{google.url}/"
    return Broker(alone | environ).credentials(connection(auth))


def refused(auth, google=None, kind=CredentialsError, **environ):
    with pytest.raises(kind) as caught:
        fetch(auth, google, **environ)
    return caught.value


def grant(google, found):
    assert isinstance(found, BearerToken)
    assert found.token.get_secret_value() not in repr(found)
    return google.tokens[found.token.get_secret_value()]


def lives(found):
    assert found.expires_at.tzinfo is not None
    return (found.expires_at - datetime.now(UTC)).total_seconds()


def test_service_account_signs_for_a_storage_token(google, file):
    key = google.service_account(READER)
    for auth in (
        {"method": "service_account", "key_file": file(key)},
        {"method": "service_account", "key": json.dumps(key)},
    ):
        found = fetch(auth)
        assert grant(google, found).principal == READER
        assert grant(google, found).scopes == (f"{STORAGE}read_write",)
        assert 3500 < lives(found) <= 3600
        assert found.principal == READER


def test_key_file_starts_at_the_file_that_declares_it(google, tmp_path, file):
    file(google.service_account(READER), "key.json")
    place = {"file": str(tmp_path / "catalog.yaml"), "line": 1, "column": 1}
    declared = connection({"method": "service_account", "key_file": "key.json"}, place=place)
    assert Broker({}).credentials(declared).principal == READER


def test_adc_of_a_user_is_told_by_tokeninfo(google, file):
    path = file(google.login("ana@example.com"))
    found = fetch({"method": "adc"}, google, GOOGLE_APPLICATION_CREDENTIALS=path)
    assert grant(google, found).principal == "ana@example.com"
    assert found.principal is None
    environ = {"MESHQL_GOOGLE_TOKENINFO_URL": f"{google.url}/tokeninfo"}
    assert identify(connection({"method": "adc"}), found, environ) == "ana@example.com"


def test_adc_that_gcloud_left_is_found(google, tmp_path, file):
    file(google.login("ana@example.com"), "application_default_credentials.json")
    found = fetch({"method": "adc"}, google, CLOUDSDK_CONFIG=str(tmp_path))
    assert grant(google, found).principal == "ana@example.com"


def test_adc_takes_every_kind_of_file(google, file, tmp_path):
    (tmp_path / "token").write_text("a-ci-token")
    source = {"file": str(tmp_path / "token")}
    google.creators |= {("ana@example.com", ROBOT), ("other@p.iam.gserviceaccount.com", RELAY)}
    kinds = {
        ROBOT: google.impersonating(google.login("ana@example.com"), ROBOT),
        RELAY: google.impersonating(google.service_account("other@p.iam.gserviceaccount.com"), RELAY),
        READER: google.service_account(READER),
        "principal://ci": google.provider("a-ci-token", "principal://ci", source),
    }
    for principal, content in kinds.items():
        found = fetch({"method": "adc"}, google, GOOGLE_APPLICATION_CREDENTIALS=file(content))
        assert grant(google, found).principal == principal


def test_workload_identity_exchanges_the_token_of_a_file(google, file, tmp_path):
    (tmp_path / "token").write_text("a-ci-token")
    source = {"file": str(tmp_path / "token")}
    config = file(google.provider("a-ci-token", "principal://ci", source))
    found = fetch({"method": "workload_identity", "config_file": config})
    assert grant(google, found).principal == "principal://ci"
    assert grant(google, found).scopes == (f"{STORAGE}read_write",)
    assert 3500 < lives(found) <= 3600


def test_workload_identity_takes_the_token_of_an_address(google, file):
    google.provider("a-ci-token", "principal://ci", {})
    served = {"headers": None}

    class Issuer(BaseHTTPRequestHandler):
        def do_GET(self):
            served["headers"] = self.headers.get("Authorization")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"value": "a-ci-token"}')

        def log_message(self, *arguments):
            pass

    with serving(Issuer) as url:
        source = {
            "url": f"{url}/token",
            "headers": {"Authorization": "Bearer ci"},
            "format": {"type": "json", "subject_token_field_name": "value"},
        }
        config = file(google.provider("a-ci-token", "principal://ci", source))
        found = fetch({"method": "workload_identity", "config_file": config})
    assert grant(google, found).principal == "principal://ci"
    assert served["headers"] == "Bearer ci"


def test_workload_identity_shows_a_signed_request_of_aws(google, file, monkeypatch):
    for name, value in {"ACCESS_KEY_ID": "AKIAX", "SECRET_ACCESS_KEY": "s", "REGION": "eu-west-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    source = {
        "environment_id": "aws1",
        "regional_cred_verification_url": (
            "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15"
        ),
    }
    info = google.provider("AKIAX", "principal://aws", source)
    info["subject_token_type"] = "urn:ietf:params:aws:token-type:aws4_request"
    found = fetch({"method": "workload_identity", "config_file": file(info)})
    assert grant(google, found).principal == "principal://aws"
    google.providers.clear()
    error = refused({"method": "workload_identity", "config_file": file(info)})
    assert error.message.endswith("(invalid_grant: The given credential is rejected: ...)")


def test_workload_identity_may_act_as_a_service_account(google, file, tmp_path):
    (tmp_path / "token").write_text("a-ci-token")
    source = {"file": str(tmp_path / "token")}
    config = file(google.provider("a-ci-token", "principal://ci", source, impersonates=ROBOT))
    auth = {"method": "workload_identity", "config_file": config}
    denied = refused(auth)
    assert f"this identity may not act as {ROBOT} (PERMISSION_DENIED" in denied.message
    google.creators.add(("principal://ci", ROBOT))
    found = fetch(auth)
    assert found.principal == grant(google, found).principal == ROBOT


def test_impersonation_goes_through_its_delegates(google, file):
    key = file(google.service_account(READER))
    auth = {
        "method": "impersonation",
        "service_account": ROBOT,
        "delegates": [RELAY],
        "duration": 600,
        "source": {"method": "service_account", "key_file": key},
    }
    google.creators.add((READER, RELAY))
    denied = refused(auth, google)
    assert denied.message == (
        f"connection lake: serviceAccount:{READER} may not act as {ROBOT} (PERMISSION_DENIED: "
        "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist))"
    )
    bind = "gcloud iam service-accounts add-iam-policy-binding"
    role = "--role=roles/iam.serviceAccountTokenCreator"
    assert denied.hint == (
        f"{bind} {RELAY} --member=serviceAccount:{READER} {role}; "
        f"{bind} {ROBOT} --member=serviceAccount:{RELAY} {role}"
    )
    google.creators.add((RELAY, ROBOT))
    found = fetch(auth, google)
    assert found.principal == grant(google, found).principal == ROBOT
    assert grant(google, found).scopes == (f"{STORAGE}read_write",)
    assert 500 < lives(found) <= 600


def test_impersonation_by_adc_or_a_token(google, file):
    google.creators.add(("ana@example.com", ROBOT))
    auth = {"method": "impersonation", "service_account": ROBOT}
    login = file(google.login("ana@example.com"))
    assert fetch(auth, google, GOOGLE_APPLICATION_CREDENTIALS=login).principal == ROBOT
    token, _ = google.issue("ana@example.com", [CLOUD_PLATFORM])
    auth["source"] = {"method": "token", "token": token}
    assert fetch(auth, google).principal == ROBOT
    google.tokens.clear()
    late = refused(auth, google)
    assert "UNAUTHENTICATED" in late.message
    assert "get a fresh one" in late.hint
    assert token not in str(late)


def test_impersonation_longer_than_allowed_says_so(google, file):
    google.creators.add(("ana@example.com", ROBOT))
    auth = {"method": "impersonation", "service_account": ROBOT, "duration": 7200}
    long = refused(auth, google, GOOGLE_APPLICATION_CREDENTIALS=file(google.login("ana@example.com")))
    assert "INVALID_ARGUMENT" in long.message
    assert "duration" in long.hint


ASK = """
    import json, sys, time
    from meshql.catalog.connections import GcsConnection
    from meshql.errors import MeshError
    from meshql.identity.broker import Broker
    connection = GcsConnection.model_validate({"name": "lake", "cloud": "gcs", "auth": {"method": "adc"}})
    import google.auth.transport.requests
    started = time.monotonic()
    try:
        found = Broker().credentials(connection)
        print(json.dumps([found.token.get_secret_value(), found.principal, time.monotonic() - started]))
    except MeshError as error:
        print(json.dumps([error.message, error.hint, time.monotonic() - started]))
"""


def ask(**environ):
    """What a process of its own finds: google-auth reads the metadata server's address when it is imported."""
    import os

    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("GOOGLE", "GCE", "NO_GCE"))
    }
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ASK)],
        env=kept | {"CLOUDSDK_CONFIG": "/nowhere"} | environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return json.loads(run.stdout)


def test_adc_of_a_machine_asks_its_metadata_server(google):
    token, principal, _ = ask(GCE_METADATA_HOST=google.host)
    assert google.tokens[token].principal == principal == google.machine
    assert google.tokens[token].scopes == (f"{STORAGE}read_write",)
    google.machine = None
    message, hint, _ = ask(GCE_METADATA_HOST=google.host)
    assert message == (
        "connection lake: there is no token from Google: the machine's metadata server has none"
    )
    assert hint == "gcloud compute instances set-service-account ..."


def test_adc_without_any_says_where_it_looked_and_soon():
    message, hint, seconds = ask(GCE_METADATA_HOST="127.0.0.1:9")
    assert message == (
        "connection lake: there are no application default credentials: $GOOGLE_APPLICATION_CREDENTIALS is not"
        " set, /nowhere/application_default_credentials.json does not exist, and this machine has no metadata"
        " server"
    )
    assert hint == "gcloud auth application-default login"
    assert seconds < 5
    # Nobody answers at an address that is not routed: the probe's own second is what it takes.
    *_, seconds = ask(GCE_METADATA_HOST="10.255.255.1")
    assert seconds < 6


def test_a_server_that_is_no_metadata_server_is_no_google_machine(google):
    class Portal(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with serving(Portal) as url:
        message, *_ = ask(GCE_METADATA_HOST=url.removeprefix("http://"))
    assert "has no metadata server" in message


@pytest.mark.parametrize(
    ("content", "said", "hint"),
    [
        (None, "nothing.json does not exist", "put the file there, or log in instead"),
        ("CANARY {", "is not the JSON of Google credentials", "the whole content of the JSON file"),
        ('["CANARY"]', "is not the JSON of Google credentials", "the whole content of the JSON file"),
        ({"type": "CANARY-/+"}, "of type unknown, not service_account", "take the JSON file"),
        ({"type": "authorized_user"}, "of type authorized_user, not service_account", "method: adc"),
        ({"type": "external_account"}, "of type external_account, not", "method: workload_identity"),
        ({"type": "service_account"}, "has no client_email", "service-accounts keys create"),
        (
            {"type": "service_account", "client_email": "a", "private_key": "CANARY", "token_uri": "b"},
            "is malformed: its private_key is no key",
            "service-accounts keys create",
        ),
    ],
)
def test_key_files_that_are_none(content, said, hint, file, tmp_path):
    path = str(tmp_path / "nothing.json") if content is None else file(content)
    error = refused({"method": "service_account", "key_file": path})
    assert said in error.message
    assert path in error.message
    assert hint in error.hint
    assert "CANARY" not in str(error)


def test_key_by_reference_that_is_unset_or_twice():
    error = refused({"method": "service_account", "key": "${GCP_SA_KEY}"})
    assert error.hint == "export GCP_SA_KEY=..."
    for given in ({}, {"key": "${KEY}", "key_file": "key.json"}):
        assert "needs either key_file or key" in refused({"method": "service_account", **given}).message


def test_adc_names_the_variable_whose_file_is_gone():
    error = refused({"method": "adc"}, GOOGLE_APPLICATION_CREDENTIALS="/nowhere/key.json")
    assert "$GOOGLE_APPLICATION_CREDENTIALS names /nowhere/key.json, which does not exist" in error.message


def test_token_file_that_is_not_mounted(google, file):
    config = file(google.provider("t", "p", {"file": "/nowhere/token"}))
    error = refused({"method": "workload_identity", "config_file": config})
    assert "the token file /nowhere/token does not exist" in error.message


def test_refusals_say_what_google_said_and_no_secret(google, file, tmp_path):
    key = google.service_account(READER)
    auth = {"method": "service_account", "key_file": file(key, "key.json")}
    google.service_account(READER)
    deleted = refused(auth)
    assert deleted.message == (
        "connection lake: Google refused the credentials (invalid_grant: Invalid JWT Signature)"
    )
    assert "gcloud iam service-accounts keys create" in deleted.hint
    google.accounts.clear()
    gone = refused(auth)
    # What was sent came back in the answer.
    assert gone.message.endswith("(invalid_grant: Invalid grant: account not found: ...)")
    (tmp_path / "token").write_text("a-token-of-somebody-else-altogether-0123456789")
    source = {"file": str(tmp_path / "token")}
    config = file(google.provider("another", "p", source))
    foreign = refused({"method": "workload_identity", "config_file": config})
    assert "invalid_grant" in foreign.message
    assert "somebody-else" not in str(foreign)
    login = google.login("ana@example.com")
    google.logins.clear()
    logged_out = refused({"method": "adc"}, google, GOOGLE_APPLICATION_CREDENTIALS=file(login))
    assert "invalid_grant: Token has been expired or revoked" in logged_out.message
    assert logged_out.hint == "gcloud auth application-default login"
    assert login["client_secret"] not in str(logged_out)


@pytest.mark.parametrize(("minutes", "said"), [(-20, "20 minutes fast"), (90, "90 minutes slow")])
def test_clock_that_is_off(google, file, minutes, said):
    google.skew = timedelta(minutes=minutes)
    error = refused({"method": "service_account", "key_file": file(google.service_account(READER))})
    assert f"this machine's clock is {said} (invalid_grant" in error.message
    assert error.hint == "sudo timedatectl set-ntp true"


def test_servers_that_do_not_answer_are_given_up(google, file):
    key = google.service_account(READER)
    auth = {"method": "service_account", "key_file": file(key)}
    google.failing = 503
    error = refused(auth, kind=UnreachableError)
    assert f"{google.host} is out of order: HTTP 503" in error.message
    assert [status for *_, status in google.requests] == [503, 503]
    key["token_uri"] = "http://127.0.0.1:9/token"
    error = refused({"method": "service_account", "key_file": file(key)}, kind=UnreachableError)
    assert "127.0.0.1:9 does not answer: no connection" in error.message


def test_server_that_hangs_is_given_up(google, file, monkeypatch):
    monkeypatch.setattr("meshql.identity.gcp_requests.READ_SECONDS", 0.5)
    key = google.service_account(READER)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        key["token_uri"] = f"http://127.0.0.1:{silent.getsockname()[1]}/token"
        started = time.monotonic()
        error = refused({"method": "service_account", "key_file": file(key)}, kind=UnreachableError)
    assert "does not answer: no answer in time" in error.message
    assert time.monotonic() - started < 6


def test_tokens_are_renewed_before_they_end(google, file):
    google.lifetime = 3
    broker = Broker({"NO_GCE_CHECK": "true"})
    declared = connection({"method": "service_account", "key_file": file(google.service_account(READER))})
    until, used = time.monotonic() + 5, set()
    while time.monotonic() < until:
        token = broker.credentials(declared).token.get_secret_value()
        assert google.grant(f"Bearer {token}")
        used.add(token)
        time.sleep(0.05)
    assert 2 <= len(used) <= 5


def test_identify_asks_google_only_about_its_own_tokens(google):
    own = {"MESHQL_GOOGLE_TOKENINFO_URL": f"{google.url}/tokeninfo"}
    lake = connection({"method": "token", "token": "x"})
    with_email = fetch({"method": "token", "token": google.issue("ana@example.com", ["email"])[0]})
    without = fetch({"method": "token", "token": google.issue(ROBOT, [f"{STORAGE}read_only"])[0]})
    assert identify(lake, with_email, own) == "ana@example.com"
    assert identify(lake, without, own) is None
    google.tokens.clear()
    with pytest.raises(CredentialsError, match="expired or was revoked") as caught:
        identify(lake, with_email, own)
    assert with_email.token.get_secret_value() not in str(caught.value)
    nowhere = {"MESHQL_GOOGLE_TOKENINFO_URL": "http://127.0.0.1:9/tokeninfo"}
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9 does not answer"):
        identify(lake, with_email, nowhere)
    # A token of a store of one's own: to nobody but the store.
    private = connection({"method": "token", "token": "x"}, endpoint="http://127.0.0.1:9")
    assert identify(private, with_email, {}) is None


def test_methods_without_google_import_nothing_of_it():
    program = """
        import sys
        from meshql.catalog.connections import GcsConnection
        from meshql.identity.broker import Broker
        broker = Broker({})
        for auth in (
            {"method": "hmac", "key_id": "a", "secret": "b"},
            {"method": "token", "token": "c"},
            {"method": "anonymous"},
        ):
            made = {"name": auth["method"], "cloud": "gcs", "auth": auth}
            print(type(broker.credentials(GcsConnection.model_validate(made))).__name__)
        assert not [name for name in sys.modules if name.split(".")[0] in ("google", "requests", "cryptography")]
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )
    assert run.stdout.split("\n")[:3] == ["AccessKey", "BearerToken", "Public"], run.stderr

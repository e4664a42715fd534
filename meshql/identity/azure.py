"""Credentials from Azure, by azure-identity.

Its own words may hold secrets and run over many lines, so only Entra ID's error code is kept of them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from meshql.catalog.auth import (
    AzureAuth,
    AzureCli,
    AzureDefault,
    AzureManagedIdentity,
    AzureServicePrincipal,
    AzureWorkloadIdentity,
)
from meshql.catalog.connections import Connection
from meshql.errors import MeshError, UnreachableError
from meshql.identity.credentials import BearerToken, Credentials
from meshql.identity.declared import Declared
from meshql.identity.tokens import claims_of

if TYPE_CHECKING:
    from azure.core.credentials import SupportsTokenInfo

__all__ = ["credentials", "identify"]

SCOPE = "https://storage.azure.com/.default"
"""What tokens are asked for: storage of any account, OneLake too, in every one of Azure's clouds."""

AUTHORITY = "https://login.microsoftonline.com"

LOGGERS = ("azure.identity", "azure.core", "msal")


def credentials(auth: AzureAuth, declared: Declared) -> BearerToken:
    """Return the token that the method of `auth` gives for storage, and until when it lives.

    `default`, `managed_identity` and `cli` look at the process's own environment. Raises CredentialsError for
    an identity that Azure does not accept or that is not there, UnreachableError for a token service that
    does not answer.
    """
    declared.needs("azure.identity", "azure")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    from azure.core.exceptions import AzureError

    try:
        token = _sdk(auth, declared).get_token_info(SCOPE)
    except (AzureError, OSError, ValueError, TypeError) as error:
        raise _reworded(error, auth, declared) from None
    return BearerToken(SecretStr(token.token), datetime.fromtimestamp(token.expires_on, UTC))


def identify(connection: Connection, credentials: Credentials) -> str | None:  # noqa: ARG001
    """Return whom a token of Entra ID was given to, by its own claims; None for other credentials.

    Nothing is verified: that is the store's to do.
    """
    if not isinstance(credentials, BearerToken):
        return None
    claims = claims_of(credentials.token)
    user = claims.get("upn") or claims.get("unique_name") or claims.get("preferred_username")
    application = claims.get("appid") or claims.get("azp")
    machine = str(claims.get("xms_mirid", "")).rpartition("/")[2]
    named = (
        user
        or (application and f"application {application}" + (f" of {machine}" if machine else ""))
        or (claims.get("oid") and f"object {claims['oid']}")
    )
    tenant = claims.get("tid")
    return f"{named} in tenant {tenant}" if named and tenant else named


# --- what the library is asked --------------------------------------------------------------------


def _sdk(auth: AzureAuth, declared: Declared) -> SupportsTokenInfo:
    import azure.identity as sdk

    match auth:
        case AzureDefault():
            return sdk.DefaultAzureCredential(**_entra(declared))
        case AzureServicePrincipal():
            return _service_principal(auth, declared)
        case AzureManagedIdentity():
            # A metadata service is next door: one that is not there should not be waited for.
            quick = {"connection_timeout": 1, "retry_connect": 0, "retry_status": 2}
            return sdk.ManagedIdentityCredential(client_id=auth.client_id, **_network(declared) | quick)
        case AzureWorkloadIdentity():
            return sdk.WorkloadIdentityCredential(
                tenant_id=_or_variable(auth.tenant_id, "tenant_id", "AZURE_TENANT_ID", declared),
                client_id=_or_variable(auth.client_id, "client_id", "AZURE_CLIENT_ID", declared),
                token_file_path=_token_file(auth, declared),
                **_entra(declared),
            )
        case AzureCli():
            return sdk.AzureCliCredential(tenant_id=auth.tenant_id or "", process_timeout=20)
    raise declared.error(f"auth method {auth.method} is not known")


def _service_principal(auth: AzureServicePrincipal, declared: Declared) -> SupportsTokenInfo:
    import azure.identity as sdk

    tenant, client = declared.text(auth.tenant_id, "tenant_id"), declared.text(auth.client_id, "client_id")
    if auth.client_secret is not None:
        secret = declared.secret(auth.client_secret, "client_secret").get_secret_value()
        return sdk.ClientSecretCredential(tenant, client, secret, **_entra(declared))
    if auth.certificate_file is None:
        raise declared.error(
            "a service principal needs its secret or its certificate",
            hint=f"add client_secret or certificate_file to its auth{declared.place}",
        )
    password = auth.certificate_password and declared.secret(
        auth.certificate_password, "certificate_password"
    )
    return sdk.CertificateCredential(
        tenant,
        client,
        str(declared.path(auth.certificate_file, "certificate_file")),
        password=password.get_secret_value() if password else None,
        **_entra(declared),
    )


def _entra(declared: Declared) -> dict[str, Any]:
    """The options of everything that asks Entra ID, public or of another cloud."""
    given = declared.environ.get("AZURE_AUTHORITY_HOST")
    # Whoever names the authority knows it: of private clouds the public one has never heard.
    known = {"authority": given, "disable_instance_discovery": True} if given else {}
    return _network(declared) | known


def _network(declared: Declared) -> dict[str, Any]:
    environ = declared.environ
    options: dict[str, Any] = {
        "connection_timeout": 5,
        "read_timeout": 10,
        "retry_total": 2,
        "retry_backoff_factor": 0.2,
        # Tokens of the machine come over plain http from next door: a proxy would give its own, or none.
        "proxies": {"http": ""},
    }
    trusted = environ.get("REQUESTS_CA_BUNDLE") or environ.get("SSL_CERT_FILE")
    return options | ({"connection_verify": trusted} if trusted else {})


def _or_variable(value: str | None, key: str, variable: str, declared: Declared) -> str:
    if value:
        return declared.text(value, key)
    found = declared.environ.get(variable)
    if not found:
        raise declared.unset(variable, f"auth method workload_identity without {key}")
    return found


def _token_file(auth: AzureWorkloadIdentity, declared: Declared) -> str:
    path = (
        str(declared.path(auth.token_file, "token_file"))
        if auth.token_file
        else _or_variable(None, "token_file", "AZURE_FEDERATED_TOKEN_FILE", declared)
    )
    try:
        with open(path, encoding="utf-8") as file:
            file.read(1)
    except OSError as error:
        raise declared.error(
            f"the token file {path} cannot be read: {error.strerror}",
            hint="check token_file, or $AZURE_FEDERATED_TOKEN_FILE",
        ) from None
    return path


# --- what it answers ------------------------------------------------------------------------------

MEANINGS = {
    "AADSTS7000215": (
        "Entra ID refused the client secret of application {client}",
        "give the secret's value, not its id; a new one: az ad app credential reset --id {client}",
    ),
    "AADSTS7000222": (
        "the client secret of application {client} has expired",
        "make a new one: az ad app credential reset --id {client}",
    ),
    "AADSTS700016": (
        "Entra ID knows no application {client} in tenant {tenant}",
        "check client_id and tenant_id: az ad app show --id {client}",
    ),
    "AADSTS90002": (
        "Entra ID knows no tenant {tenant}",
        "check tenant_id: az account show --query tenantId",
    ),
    "AADSTS700027": (
        "Entra ID does not accept the certificate of application {client}",
        "register it: az ad app credential reset --id {client} --cert @FILE --append",
    ),
    "AADSTS700024": (
        "the token or certificate shown to Entra ID is not valid at this time",
        "check this machine's clock, and that the token file is renewed",
    ),
    "AADSTS70021": (
        "application {client} trusts no such token: issuer, subject or audience differ",
        "compare them: az ad app federated-credential list --id {client}",
    ),
    "AADSTS50076": ("Entra ID asks for a second factor", "az login --scope " + SCOPE),
    "AADSTS700082": ("the login has expired", "az login"),
}
MEANINGS |= {
    "AADSTS700211": MEANINGS["AADSTS70021"],
    "AADSTS700212": MEANINGS["AADSTS70021"],
    "AADSTS700213": MEANINGS["AADSTS70021"],
    "AADSTS50079": MEANINGS["AADSTS50076"],
    "AADSTS50173": MEANINGS["AADSTS700082"],
    "AADSTS70043": MEANINGS["AADSTS700082"],
    "AADSTS900023": MEANINGS["AADSTS90002"],
}
"""What Entra ID's error codes say: https://learn.microsoft.com/entra/identity-platform/reference-error-codes"""


def _reworded(error: Exception, auth: AzureAuth, declared: Declared) -> MeshError:
    """Return an error of ours for one of the library's."""
    texts = [str(e) for e in _causes(error)]
    code = next((found[0] for text in texts if (found := re.search(r"AADSTS\d+", text))), None)
    if code is None and any("Unable to get authority configuration" in text for text in texts):
        code = "AADSTS90002"
    if code:
        return _refused(code, auth, declared)
    # Of several identities that were tried, one that does not answer is no reason.
    if not isinstance(auth, AzureDefault) and any(_is_network(e) for e in _causes(error)):
        return _unreachable(texts, auth, declared)
    if isinstance(error, (OSError, ValueError, TypeError)):
        return _malformed(error, auth, declared)
    return declared.error(*_absent(auth, texts))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_network(error: BaseException) -> bool:
    from azure.core.exceptions import ServiceRequestError, ServiceResponseError

    return isinstance(error, (ServiceRequestError, ServiceResponseError))


def _refused(code: str, auth: AzureAuth, declared: Declared) -> MeshError:
    environ = declared.environ
    names = {
        "client": getattr(auth, "client_id", None) or environ.get("AZURE_CLIENT_ID", "CLIENT_ID"),
        "tenant": getattr(auth, "tenant_id", None) or environ.get("AZURE_TENANT_ID", "TENANT_ID"),
    }
    message, hint = MEANINGS.get(code, ("Entra ID gives no token", None))
    hint = hint or f"what {code} means: https://login.microsoftonline.com/error?code={code[6:]}"
    return declared.error(f"{message.format(**names)} ({code})", hint=hint.format(**names))


def _unreachable(texts: list[str], auth: AzureAuth, declared: Declared) -> MeshError:
    environ = declared.environ
    if isinstance(auth, AzureManagedIdentity):
        host = environ.get("IDENTITY_ENDPOINT") or environ.get("AZURE_POD_IDENTITY_AUTHORITY_HOST")
        what = f"no managed identity service answers at {_host(host or 'http://169.254.169.254')}"
        hint = "run it on an Azure machine that has an identity; elsewhere use auth: {method: cli}"
    else:
        what = f"{_host(environ.get('AZURE_AUTHORITY_HOST') or AUTHORITY)} does not answer"
        hint = "check the network, $HTTPS_PROXY and $AZURE_AUTHORITY_HOST"
    if any("CERTIFICATE_VERIFY_FAILED" in text for text in texts):
        what = what.replace("does not answer", "shows a certificate that is not trusted")
        hint = "export SSL_CERT_FILE=... with the certificates of your network's authority"
    return UnreachableError(f"connection {declared.connection.name}: {what}", hint=hint)


def _malformed(error: Exception, auth: AzureAuth, declared: Declared) -> MeshError:
    """What was wrong before anything was sent: a file that cannot be read, a name that cannot be right."""
    if isinstance(error, OSError) and error.filename:
        return declared.error(f"{error.filename} cannot be read: {error.strerror}", hint="check its path")
    if isinstance(auth, AzureServicePrincipal) and auth.certificate_file and not auth.client_secret:
        return declared.error(
            f"the certificate {auth.certificate_file} cannot be read with this password",
            hint="it has to be PEM or PKCS12, with an RSA private key; check certificate_password",
        )
    authority = declared.environ.get("AZURE_AUTHORITY_HOST", "")
    if authority and not authority.startswith("https://"):
        return declared.error(
            f"$AZURE_AUTHORITY_HOST is not an https URL: {_host(authority)}",
            hint=f"export AZURE_AUTHORITY_HOST={AUTHORITY}",
        )
    return declared.error(
        "tenant_id or client_id cannot be right", hint=f"check its auth{declared.place}: both are GUIDs"
    )


def _absent(auth: AzureAuth, texts: list[str]) -> tuple[str, str]:
    """The message and the hint for an identity that is not there."""
    match auth:
        case AzureManagedIdentity(client_id=str(client)):
            return (
                f"this machine has no managed identity {client}",
                "check client_id, and that the identity is assigned to the machine",
            )
        case AzureManagedIdentity():
            hint = "assign one, name one of several with client_id, or use auth: {method: cli}"
            return "this machine has no managed identity", hint
        case AzureCli() if any("not found on path" in text for text in texts):
            return "there is no Azure CLI on PATH", "install it, then: az login"
        case AzureCli() if any("az login" in text for text in texts):
            return "nobody is logged in to the Azure CLI", "az login" + _tenant(auth)
        case AzureCli():
            hint = f"see what it says: az account get-access-token --scope {SCOPE}{_tenant(auth)}"
            return "the Azure CLI gives no token", hint
        case AzureDefault():
            return (
                "no Azure identity was found in the environment, on this machine or in the Azure CLI",
                "az login",
            )
    return "Entra ID gives no token", "check its auth"


def _tenant(auth: AzureCli) -> str:
    return f" --tenant {auth.tenant_id}" if auth.tenant_id else ""


def _host(url: str) -> str:
    """The URL's host and port, without user and password."""
    return (urlsplit(url).netloc or url).rpartition("@")[2]

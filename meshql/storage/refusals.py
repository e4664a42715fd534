"""What stores and readers say when they refuse, turned into errors that name the fix."""

from __future__ import annotations

import re

from meshql.errors import CredentialsError, LocationError, StorageError, UnreachableError

__all__ = ["storage_error"]


def storage_error(text: str, place: str) -> StorageError:
    """Return the error that a store's or reader's own words `text` amount to, at `place`."""
    status = re.search(r"\b(?:HTTP |error: |code: |\()?([345]\d\d)\b(?: [A-Z]|\))", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    said = code[1] if code else f"HTTP {status[1]}" if status else None
    for pattern, kind, meaning, hint in MEANINGS:
        if re.search(pattern, text, re.IGNORECASE | re.DOTALL):
            error = kind(f"{meaning}: {place}" + (f" (the store said {said})" if said else ""), hint=hint)
            break
    else:
        first = text.split("\n\nDebug source")[0].strip().splitlines()[0]
        error = StorageError(f"{place}: {first}")
    error.code = said
    if region := re.search(r"<Region>([\w-]+)</Region>", text):
        error.hint = f"set the connection's `region: {region[1]}`"
    return error


MEANINGS: tuple[tuple[str, type[StorageError], str, str], ...] = (
    (
        r"NoSuchBucket|ContainerNotFound|ContainerBeingDeleted",
        LocationError,
        "the bucket does not exist",
        "check the location's bucket and the connection's endpoint and region",
    ),
    (
        r"PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint"
        r"|redirect without LOCATION",
        LocationError,
        "the bucket lies in another region",
        "set the connection's `region` to the bucket's",
    ),
    (
        r"RequestTimeTooSkewed",
        CredentialsError,
        "this machine's clock and the store's differ too much",
        "sudo timedatectl set-ntp true",
    ),
    (
        r"ExpiredToken|TokenRefreshRequired|Signature expired"
        r"|Signature not valid in the specified time frame",
        CredentialsError,
        "the credentials have expired",
        "get fresh ones and run it again",
    ),
    (
        r"InvalidAccessKeyId",
        CredentialsError,
        "the store refused these credentials: it does not know the access key",
        "check the key id behind the connection's `auth`, and that its `endpoint` is the store of that key",
    ),
    (
        r"SignatureDoesNotMatch",
        CredentialsError,
        "the store refused these credentials: the secret does not fit the key id",
        "check the secret behind the connection's `auth` for blanks and line breaks, then its `endpoint`"
        " and `url_style`",
    ),
    (
        r"AllAccessDisabled",
        CredentialsError,
        "all access to the bucket is disabled",
        "ask the bucket's owner to open it again",
    ),
    (
        r"AccountIsDisabled",
        CredentialsError,
        "the storage account is disabled",
        "enable its subscription again, in the Azure portal",
    ),
    (
        r"KeyBasedAuthenticationNotPermitted",
        CredentialsError,
        "the storage account takes no account keys, nor signatures made with them",
        "use Entra ID, `auth: {method: default}`; or: az storage account update --name ACCOUNT "
        "--allow-shared-key-access true",
    ),
    (
        r"AuthorizationPermissionMismatch",
        CredentialsError,
        "this identity lacks a permission",
        "give it the role 'Storage Blob Data Reader'; a shared access signature needs --permissions rl",
    ),
    (
        r"AuthorizationFailure.*not authorized to perform this operation",
        CredentialsError,
        "the storage account's firewall refuses this machine",
        "az storage account network-rule add --account-name ACCOUNT --ip-address ADDRESS",
    ),
    (
        r"PublicAccessNotPermitted",
        CredentialsError,
        "the storage account lets nobody in without an identity",
        "give the connection one: `auth: {method: default}`",
    ),
    (
        r"UserProjectMissing|UserProjectAccessDenied",
        CredentialsError,
        "the bucket's readers have to pay, and name a project that does",
        "ask its owner to turn that off: gcloud storage buckets update gs://BUCKET --no-requester-pays",
    ),
    (
        r"requester.?pays",
        CredentialsError,
        "the bucket's readers have to pay",
        "set the connection's `requester_pays: true`",
    ),
    (
        r"AccountProblem|billing account[^<]*(?:disabled|closed|absent|not found)|BillingNotEnabled",
        CredentialsError,
        "billing is disabled for the project or account that owns the bucket",
        "gcloud billing projects link PROJECT --billing-account=ACCOUNT",
    ),
    (
        r"InvalidToken|invalid_token|Invalid Credentials|AuthenticationRequired|InvalidAuthenticationInfo"
        r"|\b401 Unauthorized|HTTP 401",
        CredentialsError,
        "the store refused these credentials: it does not take the token",
        "get a fresh one, for this cloud and its storage, and check the connection's `auth`",
    ),
    (
        r"AuthenticationFailed|AuthorizationFailure|AccessDenied|NoAuthenticationInformation"
        r"|\b403 Forbidden|HTTP 403",
        CredentialsError,
        "the store refused these credentials",
        "check the connection's `auth`, and that this identity may list and read the location",
    ),
    (
        r"InvalidCertificate|SSL peer certificate|SSL CA cert|certificate verify failed",
        UnreachableError,
        "the store's certificate is not trusted",
        "export SSL_CERT_FILE=... with the certificates of your network's authority",
    ),
    (
        r"error sending request|error trying to connect|timed? ?out|could not connect|couldn't connect"
        r"|could not resolve|couldn't resolve|connection refused|connection reset|dns error"
        r"|Could not establish connection",
        UnreachableError,
        "the store does not answer",
        "check the connection's `endpoint`, the network and any proxy",
    ),
    (
        r"\b404\b|not found|NoSuchKey|BlobNotFound|no such file",
        LocationError,
        "there is nothing at this location",
        "check the product's `location`, and that its files still exist",
    ),
)

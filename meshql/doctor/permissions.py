"""What an identity lacks, in the words of its cloud, and the command that gives it."""

from __future__ import annotations

from meshql.catalog.connections import AzureConnection, GcsConnection, S3Connection
from meshql.doctor.case import Case
from meshql.errors import CredentialsError, StorageError
from meshql.identity.credentials import SharedAccessSignature

__all__ = ["is_denied", "lacking", "new_signature"]

DENIED = frozenset({"AccessDenied", "AuthorizationPermissionMismatch", "InsufficientAccountPermissions"})
"""What stores call a request of somebody they know, who may not do this."""

ACTIONS = {"list": ("s3:ListBucket", "storage.objects.list"), "read": ("s3:GetObject", "storage.objects.get")}


def is_denied(error: StorageError) -> bool:
    """Whether the store knows us and forbids just this."""
    return isinstance(error, CredentialsError) and (error.code in DENIED or error.code == "HTTP 403")


def lacking(case: Case, action: str, error: StorageError) -> CredentialsError:
    """Return the error for what the identity may not do: `list` or `read`."""
    location = case.location
    said = f" (the store said {error.code})" if error.code else ""
    message = f"{case.who} may not {action} {location.scheme}://{location.bucket}{said}"
    found = CredentialsError(message, hint=_grant(case, action) or error.hint)
    found.code = error.code
    return found


def _grant(case: Case, action: str) -> str | None:
    bucket = case.location.bucket
    of_s3, of_gcs = ACTIONS[action]
    match case.connection:
        case S3Connection():
            resource = f"arn:aws:s3:::{bucket}" + ("" if action == "list" else "/*")
            payer = "" if case.connection.requester_pays else _payer(case)
            return f"allow {of_s3} on {resource}{payer}"
        case GcsConnection():
            return (
                f"gcloud storage buckets add-iam-policy-binding gs://{bucket} "
                f"--member={_member(case.identity)} --role=roles/storage.objectViewer (has {of_gcs})"
            )
        case AzureConnection() if isinstance(case.credentials, SharedAccessSignature):
            return new_signature(case)
        case AzureConnection():
            account = case.connection.account or "ACCOUNT"
            return (
                f"az role assignment create --role 'Storage Blob Data Reader' --assignee {_assignee(case)} "
                f'--scope "$(az storage account show --name {account} --query id --output tsv)"'
            )
    return None


def new_signature(case: Case) -> str:
    """Return the command that makes a signature which permits reading and listing."""
    account = getattr(case.connection, "account", None) or "ACCOUNT"
    container = case.location.bucket if case.product else "CONTAINER"
    return (
        f"az storage container generate-sas --account-name {account} --name {container} "
        "--permissions rl --expiry DATE"
    )


def _payer(case: Case) -> str:
    return f", or, where its readers pay, set `requester_pays: true` {case.fix}"


def _member(identity: str | None) -> str:
    if not identity or "@" not in identity:
        return "MEMBER"
    kind = "serviceAccount" if identity.endswith("gserviceaccount.com") else "user"
    return f"{kind}:{identity}"


def _assignee(case: Case) -> str:
    return case.identity if case.identity and " " not in case.identity else "PRINCIPAL"

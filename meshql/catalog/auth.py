"""Who we are: the `auth:` block of a connection, one model a method.

Every value that is a secret is a SecretStr, and stands in YAML as a reference.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from meshql.catalog.base import Model, Whole

__all__ = [
    "Anonymous",
    "Auth",
    "AwsDefault",
    "AzureAccountKey",
    "AzureAuth",
    "AzureCli",
    "AzureConnectionString",
    "AzureDefault",
    "AzureManagedIdentity",
    "AzureSas",
    "AzureServicePrincipal",
    "AzureWorkloadIdentity",
    "ClientCredentials",
    "GcsAdc",
    "GcsAuth",
    "GcsHmac",
    "GcsImpersonation",
    "GcsServiceAccount",
    "GcsSource",
    "GcsWorkloadIdentity",
    "HttpAuth",
    "IcebergRestAuth",
    "PostgresAuth",
    "PostgresDefault",
    "PostgresPassword",
    "S3AssumeRole",
    "S3Auth",
    "S3ContainerRole",
    "S3Env",
    "S3InstanceRole",
    "S3Keys",
    "S3Process",
    "S3Profile",
    "S3Source",
    "S3WebIdentity",
    "SigV4",
    "Token",
    "UnityAuth",
]


class Anonymous(Model):
    """Show no identity: public data."""

    method: Literal["anonymous"]


class Token(Model):
    """A bearer token, by reference; nobody renews it."""

    method: Literal["token"]
    token: SecretStr = Field(description="Bearer token, as a reference: ${ACCESS_TOKEN}")


class ClientCredentials(Model):
    """OAuth 2 client credentials, by reference."""

    method: Literal["oauth2"]
    client_id: str
    client_secret: SecretStr = Field(description="Client secret, as a reference: ${CLIENT_SECRET}")
    scope: str | None = Field(default=None, description="Scope to ask for: PRINCIPAL_ROLE:ALL, all-apis ...")
    token_uri: str | None = Field(
        default=None, description="URL of the token endpoint, where the catalog does not have its own"
    )


# --- Amazon S3 and stores that speak its API ------------------------------------------------------


class S3Keys(Model):
    """An access key, by reference."""

    method: Literal["keys"]
    key_id: SecretStr = Field(description="Access key id, as a reference: ${AWS_ACCESS_KEY_ID}")
    secret: SecretStr = Field(description="Secret access key, as a reference: ${AWS_SECRET_ACCESS_KEY}")
    session_token: SecretStr | None = Field(
        default=None, description="Session token of temporary keys, as a reference"
    )


class S3Env(Model):
    """The usual AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the environment."""

    method: Literal["env"]


class AwsDefault(Model):
    """Whatever the AWS SDK finds: environment, profile, SSO, process, web identity, container, instance."""

    method: Literal["default"]


class S3Profile(Model):
    """A profile of ~/.aws: keys, SSO, a process or a role, whatever it is configured with."""

    method: Literal["profile"]
    profile: str = Field(description="Name of the profile in ~/.aws/config or ~/.aws/credentials")


class S3Process(Model):
    """A program that prints credentials as the AWS SDK's credential_process does."""

    method: Literal["process"]
    command: str = Field(description="Command line of the program")


class S3InstanceRole(Model):
    """The role of the EC2 instance that meshql runs on."""

    method: Literal["instance_role"]


class S3ContainerRole(Model):
    """The role of the ECS task or EKS pod that meshql runs in."""

    method: Literal["container_role"]


class S3WebIdentity(Model):
    """A role assumed with an OpenID Connect token, as Kubernetes and CI systems mount one."""

    method: Literal["web_identity"]
    role_arn: str | None = Field(default=None, description="Role; or else that of $AWS_ROLE_ARN")
    token_file: str | None = Field(
        default=None, description="File of the token; or else that of $AWS_WEB_IDENTITY_TOKEN_FILE"
    )
    session_name: str = "meshql"


class S3AssumeRole(Model):
    """A role assumed through AWS STS by another identity, which may be an assumed role itself."""

    method: Literal["assume_role"]
    role_arn: str = Field(description="Role to assume: arn:aws:iam::123456789012:role/reader")
    external_id: str | None = Field(default=None, description="What the role's trust policy asks for")
    session_name: str = "meshql"
    duration: Annotated[Whole, Field(ge=900, le=43200)] = Field(
        default=3600, description="Seconds that the credentials live"
    )
    source: S3Source | None = Field(default=None, description="Who assumes it; or else method default")


_S3 = (
    S3Keys
    | S3Env
    | AwsDefault
    | S3Profile
    | S3Process
    | S3InstanceRole
    | S3ContainerRole
    | S3WebIdentity
    | S3AssumeRole
)
S3Source = Annotated[_S3, Field(discriminator="method")]
S3Auth = Annotated[_S3 | Anonymous, Field(discriminator="method")]


class SigV4(Model):
    """Requests signed as AWS: for Glue's and S3 Tables' catalogs."""

    method: Literal["sigv4"]
    service: Literal["glue", "s3tables", "execute-api"] = "glue"
    region: str | None = Field(default=None, description="Region to sign for; or else that of the URL")
    source: S3Source | None = Field(default=None, description="Who signs; or else method default")


# --- Google Cloud Storage -------------------------------------------------------------------------


class GcsHmac(Model):
    """An HMAC key of Cloud Storage's S3-interoperable API, by reference."""

    method: Literal["hmac"]
    key_id: SecretStr = Field(description="HMAC access id, as a reference: ${GCS_HMAC_KEY_ID}")
    secret: SecretStr = Field(description="HMAC secret, as a reference: ${GCS_HMAC_SECRET}")


class GcsAdc(Model):
    """Application default credentials: gcloud's login, $GOOGLE_APPLICATION_CREDENTIALS, or the machine's."""

    method: Literal["adc"]


class GcsServiceAccount(Model):
    """A service account's JSON key: a file, or its content by reference."""

    method: Literal["service_account"]
    key_file: str | None = Field(default=None, description="Path of the key's JSON file")
    key: SecretStr | None = Field(default=None, description="The key's JSON, as a reference: ${GCP_SA_KEY}")


class GcsWorkloadIdentity(Model):
    """Workload identity federation: a token of another provider exchanged at Google's token service."""

    method: Literal["workload_identity"]
    config_file: str = Field(description="Path of the credential configuration (type external_account)")


class GcsImpersonation(Model):
    """A service account impersonated by another identity."""

    method: Literal["impersonation"]
    service_account: str = Field(description="Account to act as: reader@project.iam.gserviceaccount.com")
    delegates: tuple[str, ...] = Field(default=(), description="Accounts of the chain in between, in order")
    duration: Annotated[Whole, Field(ge=300, le=43200)] = Field(
        default=3600, description="Seconds that the token lives"
    )
    source: GcsSource | None = Field(default=None, description="Who impersonates; or else method adc")


_Gcs = GcsAdc | GcsServiceAccount | GcsWorkloadIdentity | Token
GcsSource = Annotated[_Gcs, Field(discriminator="method")]
GcsAuth = Annotated[GcsHmac | _Gcs | GcsImpersonation | Anonymous, Field(discriminator="method")]


# --- Azure ----------------------------------------------------------------------------------------


class AzureConnectionString(Model):
    """A storage account's connection string, by reference."""

    method: Literal["connection_string"]
    connection_string: SecretStr = Field(
        description="Connection string, as a reference: ${AZURE_STORAGE_CONNECTION_STRING}"
    )


class AzureAccountKey(Model):
    """A storage account's shared key, by reference; the connection names the account."""

    method: Literal["account_key"]
    key: SecretStr = Field(description="Account key, as a reference: ${AZURE_STORAGE_KEY}")


class AzureSas(Model):
    """A shared access signature of an account or a container, by reference."""

    method: Literal["sas"]
    sas: SecretStr = Field(description="Shared access signature, as a reference: ${AZURE_STORAGE_SAS}")


class AzureDefault(Model):
    """Whatever the Azure SDK finds: environment, workload identity, managed identity, CLI."""

    method: Literal["default"]


class AzureServicePrincipal(Model):
    """An application of Entra ID, with its secret by reference or its certificate."""

    method: Literal["service_principal"]
    tenant_id: str
    client_id: str
    client_secret: SecretStr | None = Field(
        default=None, description="Secret, as a reference: ${AZURE_CLIENT_SECRET}"
    )
    certificate_file: str | None = Field(
        default=None, description="Path of a PEM or PKCS12 file with certificate and private key"
    )
    certificate_password: SecretStr | None = Field(
        default=None, description="Password of the certificate's file, as a reference"
    )


class AzureManagedIdentity(Model):
    """The managed identity of the machine: the system's, or a user-assigned one."""

    method: Literal["managed_identity"]
    client_id: str | None = Field(default=None, description="Client id of a user-assigned identity")


class AzureWorkloadIdentity(Model):
    """A Kubernetes service account's token exchanged at Entra ID."""

    method: Literal["workload_identity"]
    tenant_id: str | None = Field(default=None, description="Tenant; or else $AZURE_TENANT_ID")
    client_id: str | None = Field(default=None, description="Application; or else $AZURE_CLIENT_ID")
    token_file: str | None = Field(
        default=None, description="File of the token; or else that of $AZURE_FEDERATED_TOKEN_FILE"
    )


class AzureCli(Model):
    """Whoever is logged in with `az login`."""

    method: Literal["cli"]
    tenant_id: str | None = None


_Azure = (
    AzureConnectionString
    | AzureAccountKey
    | AzureSas
    | AzureServicePrincipal
    | AzureManagedIdentity
    | AzureWorkloadIdentity
    | AzureCli
    | AzureDefault
)
AzureAuth = Annotated[_Azure | Token | Anonymous, Field(discriminator="method")]


# --- web servers, databases and catalogs ---------------------------------------------------------


class PostgresPassword(Model):
    """A user and a password, by reference."""

    method: Literal["password"]
    user: str
    password: SecretStr = Field(description="Password, as a reference: ${PGPASSWORD}")


class PostgresDefault(Model):
    """Whatever libpq finds: PGUSER, PGPASSWORD, ~/.pgpass, the operating system's user."""

    method: Literal["default"]
    user: str | None = None


HttpAuth = Annotated[Token | Anonymous, Field(discriminator="method")]
PostgresAuth = Annotated[PostgresPassword | PostgresDefault, Field(discriminator="method")]
IcebergRestAuth = Annotated[ClientCredentials | Token | SigV4 | Anonymous, Field(discriminator="method")]
UnityAuth = Annotated[ClientCredentials | Token | Anonymous, Field(discriminator="method")]

Auth = (
    Anonymous
    | Token
    | ClientCredentials
    | _S3
    | SigV4
    | GcsHmac
    | _Gcs
    | GcsImpersonation
    | _Azure
    | PostgresPassword
    | PostgresDefault
)

S3AssumeRole.model_rebuild()
SigV4.model_rebuild()
GcsImpersonation.model_rebuild()

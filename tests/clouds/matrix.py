"""Which method reaches which reader, and how that is known: the README's table, and a test for each tested cell.

A cell is E (tested against an emulator of the store), S (tested, with a stub of the service that gives the
token), W (by the library's word only) or - (refused, with the reason and who can; tested as well).
"""

from __future__ import annotations

READERS = ("parquet", "iceberg", "delta", "deltalake", "pyiceberg", "lance")
"""The first three are DuckDB's, through meshql's SQL; the others take meshql's storage options."""

CELLS = {
    "s3": {
        "keys": "EEEEEE",
        "env": "EEEEEE",
        "profile": "EEEEEE",
        "profile, with SSO": "SSSSSS",
        "process": "EEEEEE",
        "web_identity": "SSSSSS",
        "assume_role": "SSSSSS",
        "container_role": "SSSSSS",
        "instance_role": "SSSSSS",
        "default": "SSSSSS",
        "anonymous": "EEEEEE",
    },
    "gcs": {
        "hmac": "EEEEEE",
        "adc": "SSS-SS",
        "service_account": "SSS-SS",
        "workload_identity": "SSS-SS",
        "impersonation": "SSS-SS",
        "token": "SSS-SS",
        "anonymous": "EEEEEE",
    },
    "azure": {
        "connection_string": "EEEEEE",
        "account_key": "EEEEEE",
        "sas": "EEEEEE",
        "service_principal": "SSSSSS",
        "service_principal, with a certificate": "SSSSSS",
        "managed_identity": "SSSSSS",
        "workload_identity": "SSSSSS",
        "cli": "SSSSSS",
        "default": "SSSSSS",
        "token": "SSSSSS",
        "anonymous": "EEEEEE",
    },
}


def methods(cloud: str) -> list[str]:
    """Return the rows of a cloud."""
    return list(CELLS[cloud])


def tested(cloud: str) -> list[tuple[str, str, str]]:
    """Return (method, reader, kind) of each cell of a cloud that a test stands behind."""
    return [
        (method, reader, kind)
        for method, kinds in CELLS[cloud].items()
        for reader, kind in zip(READERS, kinds, strict=True)
        if kind != "W"
    ]


def table() -> str:
    """Return the README's table."""
    named = ("DuckDB: Parquet", "DuckDB: Iceberg", "DuckDB: Delta", "delta-rs", "pyiceberg", "Lance")
    lines = ["| cloud | method | " + " | ".join(named) + " |", "|---|---|" + "---|" * len(named)]
    for cloud, rows in CELLS.items():
        for method, kinds in rows.items():
            words, _, more = method.partition(",")
            cells = " | ".join("–" if kind == "-" else kind for kind in kinds)
            lines.append(f"| `{cloud}` | `{words}`{',' if more else ''}{more} | {cells} |")
    return "\n".join(lines)

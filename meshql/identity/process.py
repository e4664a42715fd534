"""Access keys that a program prints, in the format of the AWS SDK's credential_process."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from meshql.catalog.auth import S3Process
from meshql.identity.credentials import AccessKey
from meshql.identity.declared import Declared

__all__ = ["process_keys"]

SECONDS = 60


def process_keys(auth: S3Process, declared: Declared) -> AccessKey:
    """Run the program of `auth` and return the keys that it prints.

    It gets no input and a minute. Raises CredentialsError when it fails; nothing that it printed is shown,
    and of its command line only the program, since both may hold secrets.
    """
    command = declared.text(auth.command, "command")
    try:
        words = shlex.split(command)
        program = Path(words[0]).name
    except (ValueError, IndexError):
        raise declared.error("auth.command is not a command line", hint="check its quotes") from None
    given = _read(_run(command if sys.platform == "win32" else words, program, declared), program, declared)
    ends = _end(given, program, declared)
    if ends and ends <= datetime.now(UTC):
        raise declared.error(
            f"program {program} gave credentials that ended at {ends:%Y-%m-%d %H:%M:%S} UTC",
            hint="log in again with the tool behind it",
        )
    token = given.get("SessionToken")
    return AccessKey(
        given["AccessKeyId"], SecretStr(given["SecretAccessKey"]), SecretStr(token) if token else None, ends
    )


def _run(command: str | list[str], program: str, declared: Declared) -> bytes:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
    except OSError as error:
        raise declared.error(
            f"cannot run program {program}: {error.strerror}", hint="check auth.command, and the PATH"
        ) from None
    except subprocess.TimeoutExpired:
        raise declared.error(
            f"program {program} did not end within {SECONDS} s",
            hint="run auth.command by hand: it must not ask for anything",
        ) from None
    if done.returncode:
        raise declared.error(
            f"program {program} failed with exit code {done.returncode}",
            hint="run auth.command by hand to see why",
        )
    return done.stdout


def _read(printed: bytes, program: str, declared: Declared) -> dict[str, Any]:
    try:
        given = json.loads(printed)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise _malformed(program, "it printed no JSON object", declared)
    if given.get("Version") != 1:
        raise _malformed(program, "its Version is not 1", declared)
    for name in ("AccessKeyId", "SecretAccessKey"):
        if not (given.get(name) and isinstance(given[name], str)):
            raise _malformed(program, f"it printed no {name}", declared)
    return given


def _end(given: dict[str, Any], program: str, declared: Declared) -> datetime | None:
    if given.get("Expiration") is None:
        return None
    try:
        ends = datetime.fromisoformat(given["Expiration"])
    except (TypeError, ValueError):
        raise _malformed(program, "its Expiration is no ISO 8601 time", declared) from None
    return ends.replace(tzinfo=UTC) if ends.tzinfo is None else ends.astimezone(UTC)


def _malformed(program: str, reason: str, declared: Declared) -> Exception:
    return declared.error(
        f"program {program} did not give credentials: {reason}",
        hint='it must print {"Version": 1, "AccessKeyId": ..., "SecretAccessKey": ..., "SessionToken": ..., '
        '"Expiration": ...}',
    )

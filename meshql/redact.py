"""What must never be shown: the secrets that were handed out, masked in whatever text would show them.

Stores and readers put requests into their errors, and some echo headers. Every error of meshql passes here.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["learn", "learn_typed", "quiet", "redact", "scrub"]

MASK = "***"

MOST_SECRETS = 512
"""Tokens are renewed for as long as a process lives: the oldest ones are forgotten."""

SHORT = 8
"""Shorter secrets are masked only where they stand alone: they may be part of any word."""

SHORTEST = 4

LONG_LINE = 16

_CREATE_SECRET = re.compile(r"\bCREATE\b[^;]{0,60}?\bSECRET\b(?:'(?:[^']|'')*'|[^;'])*", re.IGNORECASE)

_OPTION = re.compile(r"(\w+)[\s=:>(]*'((?:[^']|'')*)'")

_HARMLESS = re.compile(
    r"TYPE|PROVIDER|SCOPE|REGION|ENDPOINT|\w*URL\w*|\w*URI|USE_SSL|ACCOUNT_NAME|ACCOUNT|HOST|PORT|DATABASE|DBNAME"
    r"|USER|CLIENT_ID|TENANT_ID|CHAIN|PROFILE|IN|SECRET_NAME",
    re.IGNORECASE,
)

_IN_ADDRESS = re.compile(
    r"\bpassword\s*=\s*([^\s'\"&;]+)|://[^/\s:@]*:(?!\d+/)([^\s'\"@]+)@|\bAccountKey=([^\s'\";]+)"
    r"|[?&](?:sig|x-amz-signature|x-goog-signature|x-amz-security-token)=([^\s'\"&]+)",
    re.IGNORECASE,
)


class _Known(NamedTuple):
    identifier: bool
    forms: frozenset[str]


_known: dict[str, _Known] = {}
_lock = threading.Lock()


def learn(value: str, *, identifier: bool = False) -> None:
    """Mask `value` from now on, however it is encoded; of an `identifier`, the first four letters stay."""
    if len(value) < SHORTEST:
        return
    with _lock:
        known = _known.pop(value, None)
        _known[value] = _Known(identifier, known.forms if known else frozenset(_forms(value)))
        while len(_known) > MOST_SECRETS:
            del _known[next(iter(_known))]


def learn_typed(sql: str) -> None:
    """Mask the secrets that somebody typed into `sql`: those of CREATE SECRET, and in addresses."""
    for statement in _CREATE_SECRET.finditer(sql):
        for option in _OPTION.finditer(statement[0]):
            if not _HARMLESS.fullmatch(option[1]):
                value = option[2].replace("''", "'")
                learn(value, identifier=option[1].casefold() == "key_id")
    for found in _IN_ADDRESS.finditer(sql):
        learn(next(filter(None, found.groups()), ""))


def redact(text: str) -> str:
    """Return `text` with every secret that was learned masked."""
    with _lock:
        known = list(_known.values())
    # A pattern of all forms, hundreds for a key file alone, would take a second to compile.
    secrets = {form for k in known if not k.identifier for form in k.forms if form in text}
    identifiers = {form for k in known if k.identifier for form in k.forms if form in text} - secrets
    if not secrets and not identifiers:
        return text
    pattern = re.compile(f"(?P<id>{_any_of(identifiers)})|(?:{_any_of(secrets)})")
    return pattern.sub(lambda found: found["id"][:4] + MASK if found["id"] else MASK, text)


def scrub(error: BaseException) -> None:
    """Mask what an error and those that led to it hold, in place: tracebacks and loggers show them all."""
    seen = set[int]()
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        chain += [link.__cause__, link.__context__]
        if isinstance(link, UnicodeError):
            continue
        link.args = tuple(redact(a) if isinstance(a, str) else a for a in link.args)
        for name, value in vars(link).items():
            if isinstance(value, str):
                setattr(link, name, redact(value))
            elif isinstance(value, dict):
                setattr(link, name, {k: redact(v) if isinstance(v, str) else v for k, v in value.items()})


def quiet(*names: str) -> None:
    """Keep the debug lines of these loggers from whoever listens to all: they hold requests and answers.

    A level that somebody set for one of them on purpose stays.
    """
    for name in names:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


def _any_of(forms: set[str]) -> str:
    # The longest first: one secret may begin as another does.
    ordered = sorted(forms, key=len, reverse=True)
    return "|".join(map(_alone, ordered)) or r"(?!)"


def _alone(form: str) -> str:
    return re.escape(form) if len(form) >= SHORT else rf"(?<!\w){re.escape(form)}(?!\w)"


def _forms(value: str) -> Iterator[str]:
    """The spellings under which a secret may turn up."""
    yield value
    if len(value) < SHORT:
        return
    lines = [line for line in re.split(r"[\r\n]+|\\n", value) if len(line) >= LONG_LINE and line != value]
    for text in (value, *lines):
        yield from _escaped(text)
        yield text.encode().hex()
        yield text.encode().hex().upper()
        yield from _in_base64(text.encode())


def _escaped(text: str) -> Iterator[str]:
    import json
    from urllib.parse import quote, quote_plus, unquote
    from xml.sax.saxutils import escape

    yield text
    for quoted in (quote(text, safe=""), quote(text), quote_plus(text)):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), quoted)
    if len(plain := unquote(text)) >= SHORT:
        yield plain
    yield escape(text, {'"': "&quot;", "'": "&apos;"})
    yield json.dumps(text)[1:-1]
    yield text.replace("'", "''")


def _in_base64(raw: bytes) -> Iterator[str]:
    """Base64 of a text that holds `raw`, as far as `raw` alone tells it, for each of its three places."""
    import base64

    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        first = -(-before * 8 // 6)
        last = (before + len(raw)) * 8 // 6
        if len(inner := encoded[first:last]) >= SHORT:
            yield inner
            yield inner.replace("+", "-").replace("/", "_")

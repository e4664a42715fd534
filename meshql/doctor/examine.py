"""All connections examined at once, each within the time given."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module

from meshql.catalog.model import Catalog, Product
from meshql.doctor.case import Case, Readers, Skip
from meshql.doctor.checks import Step, method_of, steps_of
from meshql.doctor.choose import Chosen, choose, unplaced
from meshql.doctor.diagnosis import Check, Diagnosis
from meshql.errors import MeshError, UsageError
from meshql.identity.broker import Broker
from meshql.identity.identify import expiry, identify, libraries_of, own_words
from meshql.query.engine import Engine
from meshql.query.resolve import Resolver

__all__ = ["SECONDS", "diagnose", "hanging"]

SECONDS = 2.5
"""What a connection gets, unless somebody gives it more."""

THREADS = "meshql-doctor"


def diagnose(
    catalog: Catalog, broker: Broker, names: Sequence[str] = (), *, timeout: float = SECONDS
) -> list[Diagnosis]:
    """Examine the connections and products of these names, or all connections, and return what was found.

    All are examined at once. `timeout` is in seconds; a check that is not done by then has failed. Raises
    UsageError for a name that the catalog does not have.
    """
    # An engine of its own: one that hangs in a read is left behind, and remembers no older look.
    engine = Engine(broker)
    resolver = Resolver(catalog, engine, broker)
    try:
        chosen = _chosen(catalog, names, resolver)
    except MeshError:
        resolver.close()
        engine.close()
        raise
    readers = Readers(broker, engine, resolver)
    ends = time.monotonic() + timeout
    loading = _Thread("load", lambda: _load(catalog, chosen, engine))
    loading.start()
    examinations = [_Examination(_case(one, readers, ends), timeout) for one in chosen]
    for examination in examinations:
        examination.start()
    # Loading is this machine's own work: a slow start is not held against the stores.
    loading.join()
    ends = max(ends, time.monotonic() + timeout / 2)
    for examination in examinations:
        examination.wait(ends)
    found = [e.diagnosis() for e in examinations]
    if not names:
        found += [_unplaced(product, error) for product, error in unplaced(catalog)]
    close = _Thread("close", lambda: _close(examinations, engine, resolver))
    close.start()
    if not any(e.hangs for e in examinations):
        close.join()
    return found


def hanging() -> bool:
    """Whether checks still hang in a store, so that the process has to be left with os._exit."""
    return any(t.name.startswith(f"{THREADS}-check") for t in threading.enumerate())


def _chosen(catalog: Catalog, names: Sequence[str], resolver: Resolver) -> list[Chosen]:
    """What names lead to; remote catalogs are asked for those that nobody declares."""
    try:
        return choose(catalog, names)
    except UsageError:
        failures = resolver.mounts.discover().failures
    try:
        return choose(resolver.listed(), names)
    except UsageError as error:
        if not failures:
            raise
        unasked = " ".join(failures)
        hint = f"its catalog may be one that could not be asked: meshql doctor {unasked}"
        raise UsageError(error.message, hint=hint) from None


class _Thread(threading.Thread):
    """A thread that does not hold up the end of the process."""

    def __init__(self, name: str, target: object) -> None:
        super().__init__(name=f"{THREADS}-{name}", target=target, daemon=True)  # type: ignore[arg-type]


def _load(catalog: Catalog, chosen: Sequence[Chosen], engine: Engine) -> None:
    """Load what readers and identities need while the stores answer; who misses something says so itself."""
    for one in chosen:
        for library in libraries_of(one.connection):
            with suppress(ImportError):
                import_module(library)
    with suppress(MeshError):
        engine.load([(catalog.connection_of(p), p) for one in chosen for p in one.products])


def _close(examinations: Sequence[_Examination], engine: Engine, resolver: Resolver) -> None:
    for examination in examinations:
        examination.wait(None)
    resolver.close()
    engine.close()


def _case(chosen: Chosen, readers: Readers, ends: float) -> Case:
    return Case(
        connection=chosen.connection,
        products=tuple(chosen.products),
        used_by=chosen.used_by,
        labels=chosen.labels,
        readers=readers,
        ends=ends,
    )


def _unplaced(product: Product, error: MeshError) -> Diagnosis:
    """A product on a connection that nobody can tell."""
    check = Check("credentials", "failed", 0, error.message, error.hint, product.name)
    return Diagnosis(
        connection=str(product.connection),
        cloud="unknown",
        method=None,
        identity=None,
        expires_at=None,
        endpoint=None,
        region=None,
        seconds=0,
        checks=(check,),
        products=(product.name,),
    )


class _Examination:
    """The checks of one connection, done one after the other in a thread."""

    def __init__(self, case: Case, timeout: float) -> None:
        self._case = case
        self._timeout = timeout
        self._steps = steps_of(case)
        self._checks: list[Check] = []
        self._blocking: set[str] = set()
        self._begun = self._started = time.monotonic()
        self._ended: float | None = None
        self._thread = _Thread(f"check-{case.connection.name}", self._run)
        self._asking = _Thread(f"identify-{case.connection.name}", self._identify)

    def start(self) -> None:
        """Begin with the first check."""
        self._thread.start()

    def wait(self, ends: float | None) -> None:
        """Wait until all checks are done, or until `ends` on the monotonic clock."""
        for thread in (self._thread, self._asking):
            if thread.ident is not None:
                thread.join(None if ends is None else max(ends - time.monotonic(), 0))

    @property
    def hangs(self) -> bool:
        """Whether a check goes on."""
        return self._thread.is_alive() or self._asking.is_alive()

    def diagnosis(self) -> Diagnosis:
        """Return what is known by now; what is not done has failed, and what was not begun is skipped."""
        case, endpoint = self._case, self._case.endpoint
        done = tuple(self._checks)
        ended = self._ended or time.monotonic()
        own = own_words(case.credentials) if case.credentials else None
        return Diagnosis(
            connection=case.connection.name,
            cloud=case.connection.cloud,
            method=method_of(case),
            identity=case.identity or own,
            expires_at=expiry(case.credentials) if case.credentials else None,
            endpoint=endpoint.url if endpoint else None,
            region=getattr(case.connection, "region", None),
            seconds=ended - self._started,
            checks=(*done, *self._undone(len(done))),
            products=case.used_by,
        )

    def _undone(self, done: int) -> Iterator[Check]:
        for i, step in enumerate(self._steps[done:]):
            if i:
                yield Check(step.name, "skipped", 0, "there was no time left", product=step.product)
                continue
            name = self._case.connection.name
            hint = f"give it more time: meshql doctor --timeout {self._timeout * 4:g} {name}"
            message = f"no answer within {self._timeout:g} s"
            yield Check(step.name, "failed", time.monotonic() - self._begun, message, hint, step.product)

    def _run(self) -> None:
        for step in self._steps:
            self._begun = time.monotonic()
            self._checks.append(self._checked(step))
            if self._case.credentials is not None and self._asking.ident is None:
                self._asking.start()
        self._ended = time.monotonic()

    def _identify(self) -> None:
        """Learn who we are; no store needs to know, so that nothing fails where nobody tells."""
        credentials = self._case.credentials
        with suppress(MeshError):
            if credentials is not None:
                self._case.identity = identify(self._case.connection, credentials)

    def _checked(self, step: Step) -> Check:
        missing = next((name for name in step.needs if name in self._blocking), None)
        check = Check(step.name, "skipped", 0, f"{missing} failed", product=step.product)
        if missing is None:
            check = self._done(step)
        self._weigh(check, missing)
        return check

    def _weigh(self, check: Check, missing: str | None) -> None:
        """Decide whether what stands on `check` can be done.

        Who may not list may yet read: from there on it counts whether an object could be read.
        """
        denied = self._case.denied
        unknown = check.state == "skipped" and (check.name == "network" or (check.name == "read" and denied))
        if missing is not None or unknown or (not check.ok and not (check.name == "list" and denied)):
            self._blocking.add(check.name)

    def _done(self, step: Step) -> Check:
        case, product = self._case, step.product
        try:
            said = step.do(case)
        except Skip as reason:
            return Check(step.name, "skipped", self._seconds, str(reason), product=product)
        except MeshError as error:
            return Check(step.name, "failed", self._seconds, error.message, error.hint, product)
        except BaseException as error:
            # Rust's panics are no Exceptions, and the words may hold what a library was given.
            message = f"{type(error).__name__} in meshql's own check"
            hint = "report it with the output of `meshql version`"
            return Check(step.name, "failed", self._seconds, message, hint, product)
        if isinstance(said, str):
            return Check(step.name, "ok", self._seconds, said, product=product)
        return Check(step.name, "warning", self._seconds, said.message, said.hint, product)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._begun

"""Credentials that end: renewed before they do, and once more when a store refuses them all the same."""

from __future__ import annotations

import json
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pytest
import yaml
from clouds.gateway import gateway
from deltalake import write_deltalake
from pydantic import SecretStr

import meshql
from meshql.errors import CredentialsError
from meshql.identity.broker import Broker
from meshql.identity.credentials import AccessKey
from meshql.remote.vended import connection_for

ROWS = 60_000


@pytest.fixture(scope="module")
def lake(s3, tmp_path_factory):
    """A bucket with a Delta table of three files and a folder of six Parquet files."""
    folder = tmp_path_factory.mktemp("lake")
    for part in range(3):
        write_deltalake(
            folder / "delta", pa.table({"x": list(range(part * 10, part * 10 + 10))}), mode="append"
        )
    (folder / "parquet").mkdir()
    for part in range(6):
        rows = (
            f"SELECT range AS x, md5(range::VARCHAR) AS text FROM range({part * ROWS}, {(part + 1) * ROWS})"
        )
        duckdb.sql(rows).write_parquet(str(folder / f"parquet/{part}.parquet"), row_group_size=10_000)
    s3.create_bucket("expiring")
    s3.upload("expiring", folder)
    return s3


@pytest.fixture
def door(lake):
    with gateway(lake.endpoint) as found:
        # So that nobody is let in before something was issued.
        found.issue(0)
        yield found


@pytest.fixture
def catalog(door, tmp_path):
    """Return a function that writes a catalog whose credentials live for so many seconds."""

    def write(seconds):
        program = tmp_path / "credentials.py"
        program.write_text(
            "import urllib.request\n"
            f"print(urllib.request.urlopen('{door.url}/issue/{seconds}').read().decode())\n"
        )
        auth = {"method": "process", "command": f"{sys.executable} -S {program}"}
        return lake_catalog(tmp_path, door, auth)

    return write


def lake_catalog(folder, door, auth):
    connection = {"cloud": "s3", "endpoint": door.url, "url_style": "path", "auth": auth}
    products = [
        {"name": f"lake.{form}", "connection": "c", "location": f"s3://expiring/{form}/", "format": form}
        for form in ("delta", "parquet")
    ]
    document = {"meshql": 1, "connections": {"c": connection}, "products": products}
    (folder / "catalog.yaml").write_text(yaml.safe_dump(document))
    return folder / "catalog.yaml"


def issued(door):
    return len(door.identities) - 1


@pytest.mark.slow
def test_200_queries_with_tokens_that_live_three_seconds(door, catalog):
    with meshql.connect(catalog(3)) as mesh:
        began = time.monotonic()
        answers = []
        for _ in range(200):
            answers += mesh.sql(
                "SELECT (SELECT sum(x) FROM lake.delta), (SELECT count(*) FROM lake.parquet WHERE x % 7 = 0)"
            ).fetchall()
            time.sleep(0.02)
        seconds = time.monotonic() - began
    assert answers == [(sum(range(30)), len(range(0, 6 * ROWS, 7)))] * 200
    assert seconds > 6, "too fast to have seen an expiry"
    refused = [r for r in door.requests if r.status in (400, 401, 403)]
    assert refused == []
    assert seconds / 3 <= issued(door) <= seconds / 1.5 + 2


def test_threads_renew_once_together(door, catalog):
    with meshql.connect(catalog(3600)) as mesh:
        together = [
            threading.Thread(target=lambda: mesh.sql("SELECT count(*) FROM lake.delta").fetchall())
            for _ in range(8)
        ]
        for thread in together:
            thread.start()
        for thread in together:
            thread.join()
    assert issued(door) == 1


def test_a_token_revoked_between_two_statements(door, catalog):
    with meshql.connect(catalog(3600)) as mesh:
        assert mesh.sql("SELECT count(*) FROM lake.delta").fetchall() == [(30,)]
        revoke_all(door)
        assert mesh.sql("SELECT count(*) FROM lake.delta").fetchall() == [(30,)]
    assert issued(door) == 2


def revoke_all(door):
    for identity in list(door.identities):
        door.revoke(identity)


@pytest.mark.parametrize("form", ["delta", "parquet"])
def test_a_token_revoked_while_a_statement_runs(door, catalog, form):
    """The products are resolved with a token that the store refuses by the time that files are read."""
    with meshql.connect(catalog(3600)) as mesh:
        session = mesh.session()
        (statement,) = session.parse(f"SELECT sum(x) FROM lake.{form}")
        assert session.run(statement).fetchall()
        revoked = []

        def revoke_at_the_first_file(request):
            if request.path.endswith(".parquet") and not revoked:
                revoked.append(request.identity)
                revoke_all(door)

        session.run(session.parse("SET enable_external_file_cache = false")[0])
        door.before = revoke_at_the_first_file
        expected = sum(range(30)) if form == "delta" else sum(range(6 * ROWS))
        assert session.run(statement).fetchall() == [(expected,)]
        assert revoked
    assert issued(door) == 2


def test_a_token_revoked_behind_the_first_rows(door, catalog):
    """What was handed out cannot be taken back: the statement ends with an error that says so."""
    with meshql.connect(catalog(3600), settings={"threads": "1"}) as mesh:
        result = mesh.sql("SELECT * FROM lake.parquet")
        batches = iter(result)
        assert next(batches).num_rows > 0
        revoke_all(door)
        with pytest.raises(CredentialsError, match=r"lake\.parquet: .*expired"):
            for _ in batches:
                pass
        assert mesh.sql("SELECT count(*) FROM lake.parquet").fetchall() == [(6 * ROWS,)]


def test_a_token_that_is_refused_for_good(door, catalog):
    """Fresh ones are asked for once, and not once more for each reader."""
    with meshql.connect(catalog(0)) as mesh, pytest.raises(CredentialsError, match=r"lake\.delta"):
        mesh.sql("SELECT count(*) FROM lake.delta")
    assert issued(door) <= 3


def test_writing_statements_are_run_again_whole(door, catalog, tmp_path):
    with meshql.connect(catalog(3600)) as mesh, mesh.session() as session:
        for text in ("SET enable_external_file_cache = false", "CREATE TEMP TABLE copy (x BIGINT)"):
            session.run(session.parse(text)[0])
        (insert,) = session.parse("INSERT INTO copy SELECT x FROM lake.parquet")
        session.run(insert)

        def revoke_at_the_fourth_file(request):
            if request.path.endswith("3.parquet") and request.method == "GET":
                door.before = None
                revoke_all(door)

        door.before = revoke_at_the_fourth_file
        session.run(insert)
        (count,) = session.parse("SELECT count(*) FROM copy")
        assert session.run(count).fetchall() == [(2 * 6 * ROWS,)]


def test_a_statement_that_is_refused_once_more_ends_once(door, catalog):
    with meshql.connect(catalog(3600), settings={"threads": "1"}) as mesh, mesh.session() as session:
        ends = []
        session.run(session.parse("SET enable_external_file_cache = false")[0])
        statement, count = session.parse("FROM lake.parquet; SELECT count(*) FROM lake.parquet")
        session.run(count).fetchall()

        def revoke_at_every_file(request):
            if request.path.endswith(".parquet"):
                revoke_all(door)

        result = session.run(statement, on_end=lambda: ends.append(1))
        door.before = revoke_at_every_file
        with pytest.raises(CredentialsError, match=r"lake\.parquet"):
            result.fetchall()
        result.close()
        assert ends == [1]
        door.before = None
        assert session.run(count).fetchall() == [(6 * ROWS,)]


@pytest.fixture
def shown(door, tmp_path):
    """Return a function that writes a catalog whose credentials are those in a file, each look written down."""

    def write(said):
        (tmp_path / "said.json").write_text(json.dumps({"Version": 1, "SecretAccessKey": "s", **said}))
        program = tmp_path / "program.py"
        program.write_text(
            f"open({str(tmp_path / 'looks')!r}, 'a').write('x')\nprint(open({str(tmp_path / 'said.json')!r}).read())"
        )
        auth = {"method": "process", "command": f"{sys.executable} -S {program}"}
        return lake_catalog(tmp_path, door, auth)

    return write


def looks(folder):
    return len((folder / "looks").read_text())


def test_a_key_that_was_rotated_serves_all_products_of_a_statement(door, shown, tmp_path):
    """Both are refused at the same moment, and only the first to ask gets another key than the one before."""
    old = door.issue()
    with meshql.connect(shown({"AccessKeyId": old})) as mesh:
        both = "SELECT (SELECT count(*) FROM lake.delta), (SELECT count(*) FROM lake.parquet)"
        assert mesh.sql(both).fetchall() == [(30, 6 * ROWS)]
        shown({"AccessKeyId": door.issue()})
        door.revoke(old)
        together = threading.Barrier(2)

        def wait_for_the_other(request):
            if request.identity == old:
                together.wait(10)

        door.before = wait_for_the_other
        assert mesh.sql(both).fetchall() == [(30, 6 * ROWS)]
    assert looks(tmp_path) == 2


def test_credentials_that_have_ended_by_this_clock_are_not_asked_for_by_every_reader():
    """The clock may be wrong, so that the store lets them in all the same."""
    connection = connection_for("s3://expiring/table", {}, "c")
    given = []

    def fetch(refused):
        given.append(refused)
        return AccessKey(f"key{len(given)}", SecretStr("s"), None, datetime.now(UTC) - timedelta(hours=1))

    broker = Broker()
    broker.lend(connection, fetch)
    first = broker.credentials(connection)
    assert [broker.credentials(connection) for _ in range(3)] == [first] * 3
    assert broker.renew(connection, first)
    assert broker.renew(connection, first), "somebody else was refused the same ones"
    assert broker.credentials(connection).key_id == "key2"
    assert given == [False, True]


def test_a_failing_program_is_not_asked_by_every_reader_while_the_old_ones_live(door, shown, tmp_path):
    ends = datetime.now(UTC) + timedelta(seconds=12)
    given = {"AccessKeyId": door.issue(), "SessionToken": "t", "Expiration": ends.isoformat()}
    with meshql.connect(shown(given)) as mesh:
        mesh.sql("SELECT count(*) FROM lake.delta").fetchall()
        (tmp_path / "said.json").write_text("no credentials")
        while datetime.now(UTC) < ends - timedelta(seconds=3.5):
            time.sleep(0.1)
        for _ in range(5):
            assert mesh.sql("SELECT count(*) FROM lake.delta").fetchall() == [(30,)]
    assert 2 <= looks(tmp_path) <= 4


def test_copying_to_a_folder_is_not_run_again(door, catalog, tmp_path):
    """The broken file that the first attempt leaves would stand beside what the second one writes."""
    with meshql.connect(catalog(3600), settings={"threads": "1"}) as mesh, mesh.session() as session:
        session.run(session.parse("SET enable_external_file_cache = false")[0])
        session.run(session.parse("SET partitioned_write_flush_threshold = 1000")[0])
        (copy,) = session.parse(
            f"COPY (SELECT *, x % 2 AS p FROM lake.parquet) TO '{tmp_path / 'out'}'"
            " (FORMAT parquet, PARTITION_BY (p), APPEND true)"
        )

        def revoke_at_the_fourth_file(request):
            if request.path.endswith("3.parquet") and request.method == "GET":
                door.before = None
                revoke_all(door)

        door.before = revoke_at_the_fourth_file
        with pytest.raises(CredentialsError, match=r"lake\.parquet"):
            session.run(copy)

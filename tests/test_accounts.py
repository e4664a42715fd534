"""Several identities at once: each store hears of its own only, however alike their buckets and paths are."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import ExitStack

import duckdb
import pyarrow as pa
import pytest
import yaml
from clouds.bearer import bearer_front
from clouds.gateway import gateway
from deltalake import write_deltalake
from test_delta_files import by_hand, field, vector

import meshql
from meshql.catalog.load import load
from meshql.demo import emulators
from meshql.demo.stores import AZURITE_KEY, Store
from meshql.errors import CatalogError


@pytest.fixture(scope="module")
def azurite_accounts(stores_folder, azurite_program):
    """An Azurite with two accounts, alpha and beta."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURITE_ACCOUNTS", f"alpha:{AZURITE_KEY};beta:{AZURITE_KEY}")
        server = emulators.start("accounts", "azurite", stores_folder, program=azurite_program)
    yield server
    emulators.stop(server)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Write a table for each owner: n rows of one column, so that a wrong store gives a wrong count."""

    def write(owner, rows):
        folder = tmp_path_factory.mktemp(owner)
        write_deltalake(folder / "delta", pa.table({"x": list(range(rows))}))
        (folder / "parquet").mkdir()
        duckdb.sql(f"SELECT range AS x FROM range({rows})").write_parquet(str(folder / "parquet/p.parquet"))
        return folder

    return write


def s3_connection(door, identity):
    auth = {"method": "keys", "key_id": identity, "secret": "s"}
    return {"cloud": "s3", "endpoint": door.url, "url_style": "path", "insecure": True, "auth": auth}


def catalog(folder, connections, products):
    """Write a catalog; `products` are (name, connection, location, format)."""
    keys = ("name", "connection", "location", "format")
    named = [dict(zip(keys, product, strict=True)) for product in products]
    (folder / "catalog.yaml").write_text(
        yaml.safe_dump({"meshql": 1, "connections": connections, "products": named})
    )
    return folder / "catalog.yaml"


def counts(mesh, *names):
    """Count the rows of all products in one statement."""
    columns = ", ".join(f"(SELECT count(*) FROM {name})" for name in names)
    return mesh.sql(f"SELECT {columns}").fetchall()[0]


@pytest.fixture
def doors(s3, gcs):
    """Gateways before two stores that speak S3, each with a bucket `lake`."""
    with ExitStack() as stack:
        found = [stack.enter_context(gateway(store.endpoint)) for store in (s3, gcs)]
        for store in (s3, gcs):
            store.create_bucket("lake")
        yield found


def test_the_same_bucket_and_path_in_two_accounts(doors, s3, gcs, tables, tmp_path):
    first, second = doors
    s3.upload("lake", _placed(tables("one", 1), tmp_path / "one", "same"))
    gcs.upload("lake", _placed(tables("two", 2), tmp_path / "two", "same"))
    a, b = first.issue(), second.issue()
    path = catalog(
        tmp_path,
        {"a": s3_connection(first, a), "b": s3_connection(second, b)},
        [
            (f"{name}.{form}", name, f"s3://lake/same/{form}/", form)
            for name in ("a", "b")
            for form in ("delta", "parquet")
        ],
    )
    with meshql.connect(path, receipts=True) as mesh:
        assert counts(mesh, "a.delta", "b.delta", "a.parquet", "b.parquet") == (1, 2, 1, 2)
        assert counts(mesh, "b.parquet", "a.parquet", "b.delta", "a.delta") == (2, 1, 2, 1)
        result = mesh.sql("SELECT sum(a.x), sum(b.x) FROM a.parquet a, b.parquet b")
        result.fetchall()
        requests = {read.product: read.requests for read in result.receipt.reads}
    assert first.seen() == {a}
    assert second.seen() == {b}
    assert min(requests.values()) > 0


def _placed(folder, root, prefix):
    """Move what is in `folder` below `root/prefix`, to be uploaded as it lies."""
    (root / prefix).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, root / prefix, dirs_exist_ok=True)
    return root


def test_folders_that_differ_only_in_case(doors, s3, tables, tmp_path):
    door = doors[0]
    s3.upload("lake", _placed(tables("upper", 6), tmp_path / "upper", "Cased"))
    s3.upload("lake", _placed(tables("lower", 7), tmp_path / "lower", "cased"))
    upper, lower = door.issue(), door.issue()
    path = catalog(
        tmp_path,
        {"upper": s3_connection(door, upper), "lower": s3_connection(door, lower)},
        [
            (f"t.{name}_{form}", name, f"s3://lake/{folder}/{form}/", form)
            for name, folder in (("upper", "Cased"), ("lower", "cased"))
            for form in ("delta", "parquet")
        ],
    )
    with meshql.connect(path) as mesh:
        assert (
            counts(mesh, "t.upper_delta", "t.lower_delta", "t.upper_parquet", "t.lower_parquet") == (6, 7) * 2
        )
        assert counts(mesh, "t.lower_parquet", "t.upper_parquet") == (7, 6)
    assert {r.identity for r in door.requests if "/Cased/" in r.path} == {upper}
    assert {r.identity for r in door.requests if "/cased/" in r.path} == {lower}


def test_statements_during_reloads_have_an_identity(doors, s3, tables, tmp_path):
    """Without one they would go to Amazon, whatever the connection's endpoint is."""
    door = doors[0]
    s3.upload("lake", _placed(tables("reloaded", 8), tmp_path / "reloaded", "reloaded"))
    first, second = door.issue(), door.issue()
    catalogs = []
    for number, keys in enumerate(((first, second), (second, first))):
        (tmp_path / str(number)).mkdir()
        connections = {n: s3_connection(door, key) for n, key in zip(("a", "b"), keys, strict=True)}
        products = [(f"t.{n}", n, "s3://lake/reloaded/parquet/", "parquet") for n in ("a", "b")]
        catalogs.append(load(catalog(tmp_path / str(number), connections, products)))
    answers = []
    ends = time.monotonic() + 2
    with meshql.Mesh(catalogs[0]) as mesh:

        def work():
            while time.monotonic() < ends:
                answers.append(counts(mesh, "t.a", "t.b"))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        while time.monotonic() < ends:
            catalogs.reverse()
            mesh.reload(catalogs[0])
            time.sleep(0.02)
        for thread in threads:
            thread.join()
    assert set(answers) == {(8, 8)}
    assert door.seen() == {first, second}


def test_prefixes_of_one_bucket_with_identities_of_their_own(doors, s3, tables, tmp_path):
    door = doors[0]
    s3.upload("lake", _placed(tables("outer", 3), tmp_path / "outer", "nested"))
    s3.upload("lake", _placed(tables("inner", 4), tmp_path / "inner", "nested/parquet/inner"))
    s3.upload("lake", _placed(tables("aside", 5), tmp_path / "aside", "nested-aside"))
    outer, inner, aside = door.issue(), door.issue(), door.issue()
    path = catalog(
        tmp_path,
        {
            "outer": s3_connection(door, outer),
            "inner": s3_connection(door, inner),
            "aside": s3_connection(door, aside),
        },
        [
            ("wide.all", "outer", "s3://lake/nested/parquet/**/*.parquet", "parquet"),
            ("wide.delta", "outer", "s3://lake/nested/delta/", "delta"),
            ("deep.parquet", "inner", "s3://lake/nested/parquet/inner/parquet/", "parquet"),
            ("deep.delta", "inner", "s3://lake/nested/parquet/inner/delta/", "delta"),
            ("aside.delta", "aside", "s3://lake/nested-aside/delta/", "delta"),
        ],
    )
    with meshql.connect(path) as mesh:
        names = ("deep.parquet", "wide.all", "wide.delta", "deep.delta", "aside.delta")
        # All that lies below, which the delta table's own file is a part of: 3 + 4 + 4.
        assert counts(mesh, *names) == (4, 11, 3, 4, 5)
        assert counts(mesh, "wide.all", "deep.parquet") == (11, 4)
    wrong = [r for r in door.requests if "nested-aside" in r.path and r.identity != aside]
    wrong += [r for r in door.requests if r.identity == aside and "nested-aside" not in r.path]
    wrong += [r for r in door.requests if r.identity == inner and "inner" not in r.path]
    assert wrong == []
    assert door.seen() == {outer, inner, aside}


def test_two_s3_accounts_two_azure_accounts_and_a_gcs_project_in_one_query(
    doors, azurite_accounts, s3, gcs, tables, tmp_path
):
    first, second = doors
    connections, products, stores = {}, [], {}
    for n, (name, door, store) in enumerate((("s1", first, s3), ("s2", second, gcs)), start=1):
        connections[name] = s3_connection(door, door.issue())
        store.upload("lake", _placed(tables(name, n), tmp_path / name, "five"))
    with ExitStack() as stack:
        for n, account in enumerate(("alpha", "beta"), start=3):
            door = stack.enter_context(gateway(azurite_accounts.endpoint, azure=True))
            store = Store("azure", f"{azurite_accounts.endpoint}/{account}", account, AZURITE_KEY)
            store.create_bucket("lake")
            store.upload("lake", _placed(tables(account, n), tmp_path / account, "five"))
            auth = {"method": "account_key", "key": AZURITE_KEY}
            connections[account] = {
                "cloud": "azure",
                "account": account,
                "endpoint": f"{door.url}/{account}",
                "insecure": True,
                "auth": auth,
            }
            stores[account] = door
        google = stack.enter_context(gateway(gcs.endpoint))
        hmac = google.issue()
        auth = {"method": "hmac", "key_id": hmac, "secret": "s"}
        connections["g"] = {"cloud": "gcs", "endpoint": google.url, "insecure": True, "auth": auth}
        gcs.create_bucket("project")
        gcs.upload("project", _placed(tables("g", 5), tmp_path / "g", "five"))
        products = [(f"{c}.delta", c, "s3://lake/five/delta/", "delta") for c in ("s1", "s2")]
        products += [(f"{c}.parquet", c, "az://lake/five/parquet/", "parquet") for c in ("alpha", "beta")]
        products += [(f"{c}.delta", c, "az://lake/five/delta/", "delta") for c in ("alpha", "beta")]
        products += [("g.delta", "g", "gs://project/five/delta/", "delta")]
        with meshql.connect(catalog(tmp_path, connections, products)) as mesh:
            names = [name for name, *_ in products]
            assert counts(mesh, *names) == (1, 2, 3, 4, 3, 4, 5)
            joined = " JOIN ".join(f"{name} {'USING (x)' if i else ''}" for i, name in enumerate(names))
            assert mesh.sql(f"SELECT count(*) FROM {joined}").fetchall() == [(1,)]
        assert {door: seen.seen() for door, seen in stores.items()} == {
            "alpha": {"alpha"},
            "beta": {"beta"},
        }
        assert google.seen() == {hmac}
        keys = json.dumps(connections)
        for door in doors:
            (identity,) = door.seen()
            assert identity in keys


def test_delta_by_its_files_is_the_same_under_every_spelling(doors, azurite_accounts, s3, gcs, tmp_path):
    """Partitions are told by names of files, and deleted rows by name and place: those have to be the same."""
    rows = "SELECT i AS id FROM range(100) t(i)"
    files = [
        (f"p={folder}/part [{n}] +&=.parquet", rows, {"p": value}, *vectors)
        for n, (folder, value, vectors) in enumerate(
            [("a b", "a b", [vector([1, 2, 3])]), ("c%3Dd", "c=d", []), ("%C3%A9", "é", [vector([7])])]
        )
    ]
    root = tmp_path / "odd" / "odd"
    by_hand(root, [field("id", "long"), field("p", "string")], files, ["p"], ["deletionVectors"])
    connections, locations = {}, {}
    for store, bucket in ((s3, "lake"), (gcs, "project")):
        store.create_bucket(bucket)
        store.upload(bucket, tmp_path / "odd")
    for name in ("s1", "s2", "s3", "s4", "s5", "s6"):
        connections[name] = s3_connection(doors[0], doors[0].issue()) | {"requester_pays": True}
        locations[name] = "s3://lake/odd"
    for account in ("alpha", "beta"):
        store = Store("azure", f"{azurite_accounts.endpoint}/{account}", account, AZURITE_KEY)
        store.create_bucket("lake")
        store.upload("lake", tmp_path / "odd")
        auth = {"method": "account_key", "key": AZURITE_KEY}
        where = {"cloud": "azure", "account": account, "endpoint": store.endpoint, "insecure": True}
        connections[account], locations[account] = where | {"auth": auth}, "az://lake/odd"
    with bearer_front(gcs.endpoint, "good") as front:
        token = {"method": "token", "token": "good"}
        where = {"cloud": "gcs", "endpoint": front.endpoint, "insecure": True}
        connections["g"], locations["g"] = where | {"auth": token}, "gs://project/odd"
        products = [(f"{name}.t", name, location, "delta") for name, location in locations.items()]
        with meshql.connect(catalog(tmp_path, connections, products)) as mesh:
            for name in locations:
                found = mesh.sql(
                    f"SELECT p, count(*), sum(id) FROM {name}.t GROUP BY p ORDER BY p"
                ).fetchall()
                assert found == [("a b", 97, 4944), ("c=d", 100, 4950), ("é", 99, 4943)], name
                assert mesh.sql(f"SELECT count(*) FROM {name}.t WHERE p = 'a b'").fetchall() == [(97,)]
                assert mesh._resolver.snapshot(mesh.catalog.product(f"{name}.t")).log is not None


def test_more_identities_for_one_path_than_duckdb_can_tell_apart(doors, s3, tables, tmp_path):
    door = doors[0]
    s3.upload("lake", _placed(tables("many", 1), tmp_path / "many", "many"))
    names = [f"c{n}" for n in range(8)]
    issued = {name: door.issue() for name in names}
    path = catalog(
        tmp_path,
        {name: s3_connection(door, issued[name]) for name in names},
        [(f"{name}.t", name, "s3://lake/many/parquet/", "parquet") for name in names],
    )
    with meshql.connect(path) as mesh:
        assert counts(mesh, *(f"{name}.t" for name in names[:6])) == (1,) * 6
        with pytest.raises(CatalogError, match=r"c6\.t.*too many connections: c6 besides c0, c1"):
            mesh.sql("SELECT * FROM c6.t")
        assert counts(mesh, "c0.t") == (1,)
    assert door.seen() == {issued[name] for name in names[:6]}


def test_a_reload_leaves_no_credentials_behind(doors, s3, tables, tmp_path):
    door = doors[0]
    s3.upload("lake", _placed(tables("left", 2), tmp_path / "left", "left"))
    before, after = door.issue(), door.issue()

    def loaded(identity, location):
        connections = {"c": s3_connection(door, identity)}
        products = [("old.t", "c", location, "parquet")]
        return meshql.catalog.load.load(catalog(tmp_path, connections, products))

    with meshql.Mesh(loaded(before, "s3://lake/left/parquet/")) as mesh:
        counts(mesh, "old.t")
        mesh.reload(loaded(after, "s3://lake/left/**/*.parquet"))
        door.requests.clear()
        assert counts(mesh, "old.t") == (4,)
        assert door.seen() == {after}


def test_two_azure_emulators_with_the_same_account(stores_folder, azurite_program, tables, tmp_path):
    """delta-kernel knows one emulator a process: the other's tables are read by their files."""
    servers = [emulators.start(f"twin{n}", "azurite", stores_folder, program=azurite_program) for n in (1, 2)]
    connections, products = {}, []
    try:
        for server, name, rows in zip(servers, ("one", "two"), (1, 2), strict=True):
            store = Store.azure(server.endpoint)
            store.create_bucket("lake")
            store.upload("lake", _placed(tables(name, rows), tmp_path / name, name))
            connections[name] = {
                "cloud": "azure",
                "endpoint": store.endpoint,
                "account": store.key_id,
                "insecure": True,
                "auth": {"method": "account_key", "key": store.secret},
            }
            products += [
                (f"{name}.{form}", name, f"az://lake/{name}/{form}/", form) for form in ("delta", "parquet")
            ]
        path = catalog(tmp_path, connections, products)
        for names, expected in ((("one.delta", "two.delta"), (1, 2)), (("two.delta", "one.delta"), (2, 1))):
            with meshql.connect(path) as mesh:
                assert counts(mesh, *names, "one.parquet", "two.parquet") == (*expected, 1, 2)
                assert counts(mesh, *names) == expected
    finally:
        for server in servers:
            emulators.stop(server)

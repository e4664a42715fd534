"""Sources of bronze products: APIs that page and fail, SQL over products, Python functions."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest
from clouds.batches import Bronze
from clouds.json_api import http_date, json_api

import meshql
from meshql.build.sources import api as asking
from meshql.errors import (
    CatalogError,
    CorruptError,
    CredentialsError,
    LocationError,
    QueryError,
    UnreachableError,
    UsageError,
)


@pytest.fixture(autouse=True)
def _soon_tried_again(monkeypatch):
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.01)


PAGINGS = {
    "none": ("/plain", None, {"style": "none"}),
    "page": ("/page", "data.items", {"style": "page", "param": "page"}),
    "offset": ("/offset", "data.items", {"style": "offset", "param": "offset"}),
    "cursor": ("/cursor", "data.items", {"style": "cursor", "param": "cursor", "next": "meta.next"}),
    "link": ("/link", "data.items", {"style": "link"}),
}


def events(first, last):
    return [
        {"id": i, "type": "click" if i % 2 else "view", "at": f"2026-11-01T00:00:{i:02}Z"}
        for i in range(first, last)
    ]


def source(api, style="page", *, column="id", **more):
    path, records, paging = PAGINGS[style]
    said = {
        "kind": "http",
        "url": api.url + path,
        "paging": paging,
        "cursor": {"column": column, "param": "since"},
    }
    if records:
        said["records"] = records
    return {**said, **more}


IDS = "SELECT id FROM bronze.events ORDER BY ALL"


def ids(product):
    return [i for (i,) in product.rows(IDS)]


@pytest.mark.parametrize("inclusive", [True, False], ids=["from", "behind"])
@pytest.mark.parametrize("style", PAGINGS)
def test_an_api_is_taken_page_by_page_and_then_what_is_new(style, inclusive, tmp_path):
    with json_api(events(0, 25), inclusive=inclusive) as api:
        product = Bronze(tmp_path, source(api, style))
        first = product.build()
        assert (first.status, first.rows_total, first.counts.rows_out) == ("built", 25, 25)
        assert first.commits[0].watermark.endswith(": 24")
        if style != "none":
            assert len(api.requests) >= 3
        assert product.build().status == "unchanged"
        # One more with the last value, which a cursor alone would miss or take twice.
        api.records += [{"id": 24, "type": "late", "at": "2026-11-02T00:00:00Z"}, *events(25, 31)]
        again = product.build()
        assert again.counts.rows_out == (7 if inclusive else 6)
        assert product.build().status == "unchanged"
        assert ids(product) == sorted([*range(31), *([24] if inclusive else [])])
        assert api.requests[-1][1]["since"] == "30"


def test_the_order_of_an_api_does_not_matter(tmp_path):
    with json_api(events(0, 25)[::-1]) as api:
        product = Bronze(tmp_path, source(api))
        product.build()
        api.records = events(0, 40)[::-1]
        product.build()
        assert ids(product) == list(range(40))


def test_an_api_that_knows_no_since_gives_nothing_twice(tmp_path):
    with json_api(events(0, 12)) as api:
        said = source(api, "page")
        said["cursor"] = {"column": "at"}
        product = Bronze(tmp_path, said)
        product.build()
        api.records += events(12, 15)
        assert product.build().counts.rows_out == 3
        assert ids(product) == list(range(15))


@pytest.mark.parametrize(
    "fault", [503, 429, "reset", "truncated", "short", (429, {"Retry-After": "1"})], ids=str
)
def test_an_api_that_fails_for_a_while_loses_nothing(fault, tmp_path):
    with json_api(events(0, 25)) as api:
        api.faults = [None, fault, fault]
        if isinstance(fault, tuple):
            api.faults.pop()
        began = time.monotonic()
        product = Bronze(tmp_path, source(api, "link"))
        product.build()
        assert ids(product) == list(range(25))
        if isinstance(fault, tuple):
            assert time.monotonic() - began >= 1


def test_an_api_that_asks_for_too_much_patience(tmp_path):
    with json_api(events(0, 5)) as api:
        api.faults = [(503, {"Retry-After": http_date(time.time() + 900)})]
        product = Bronze(tmp_path, source(api))
        with pytest.raises(
            UnreachableError, match=r"bronze\.events: http://127.*/page asks to wait for [89]\d\d sec"
        ):
            product.build()
        assert product.state().number == 0


def test_an_api_that_is_not_there(tmp_path):
    with json_api(events(0, 5)) as api:
        product = Bronze(tmp_path, source(api, params={"api_key": "s3cret-of-mine"}))
        product.build()
    with pytest.raises(UnreachableError) as caught:
        product.build()
    assert "bronze.events" in str(caught.value)
    assert f"{api.url}/page" in str(caught.value)
    assert "s3cret-of-mine" not in str(caught.value)
    assert ids(product) == list(range(5))


def test_a_page_that_fails_for_good_leaves_nothing(tmp_path):
    with json_api(events(0, 25)) as api:
        api.faults = [None, *[(500, {"Retry-After": "0"})] * 20]
        product = Bronze(tmp_path, source(api))
        with pytest.raises(UnreachableError, match="keeps answering HTTP 500"):
            product.build()
        assert product.state().number == 0
        assert not list((tmp_path / "lake").rglob("*.parquet"))
        api.faults = []
        product.build()
        assert ids(product) == list(range(25))


CONNECTION = {"api": {"cloud": "http", "auth": {"method": "token", "token": "${API_TOKEN}"}}}


def test_the_token_of_a_connection(tmp_path, monkeypatch):
    with json_api(events(0, 5), token="tok-1234567890") as api:
        product = Bronze(tmp_path, source(api, connection="api"), connections=CONNECTION)
        monkeypatch.setenv("API_TOKEN", "wrong-0987654321")
        with pytest.raises(CredentialsError, match="refuses who we are: HTTP 401") as caught:
            product.build()
        assert "connection api" in str(caught.value)
        assert "wrong-0987654321" not in str(caught.value)
        monkeypatch.setenv("API_TOKEN", "tok-1234567890")
        product.build()
        assert ids(product) == list(range(5))


def test_a_token_is_not_shown_to_another_host(tmp_path, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "tok-1234567890")
    with json_api(events(0, 5)) as other, json_api(events(0, 25), token="tok-1234567890") as api:
        answer = api.answer

        def elsewhere(path, query):
            said, headers = answer(path, query)
            return said, {"Link": f'<{other.url}/link>; rel="next"'} if headers else headers

        api.answer = elsewhere
        product = Bronze(tmp_path, source(api, "link", connection="api"), connections=CONNECTION)
        with pytest.raises(CorruptError, match="goes on at another host"):
            product.build()
        assert other.requests == []


def test_sql_reads_files_with_the_token_of_their_connection(tmp_path, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "tok-1234567890")
    with json_api(events(0, 5), token="tok-1234567890") as api:
        web = {"name": "web.events", "connection": "api", "location": f"{api.url}/plain", "format": "json"}
        product = Bronze(tmp_path, source(api), connections=CONNECTION, products=[web])
        assert product.rows("SELECT count(*) FROM web.events") == [(5,)]
        monkeypatch.setenv("API_TOKEN", "wrong-0987654321")
        with pytest.raises(CredentialsError) as caught:
            product.rows("SELECT count(*) FROM web.events")
        assert "wrong-0987654321" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"records": "data.rows"}, CorruptError, "gives no list of records in data.rows"),
        ({"records": None}, CorruptError, "gives no list of records"),
        ({"cursor": {"column": "idd", "param": "since"}}, QueryError, r"have no column idd.*did you mean id"),
        ({"url": "{}/nowhere"}, LocationError, "there is nothing at"),
        ({"paging": {"style": "page", "param": "offset"}}, CorruptError, "HTTP"),
    ],
    ids=["records", "no records", "cursor", "url", "paging"],
)
def test_a_source_that_is_declared_wrong(change, error, message, tmp_path):
    with json_api(events(0, 25)) as api:
        answer = api.answer

        def strict(path, query):
            return answer(path if path != "/nowhere" else "/plain", query)

        api.answer = strict
        if "url" in change:
            change = {"url": change["url"].format(api.url)}
            api.faults = [404]
        if "paging" in change:
            api.faults = [400]
            error, message = UsageError, "refuses the request: HTTP 400"
        said = {**source(api), **change}
        product = Bronze(tmp_path, {k: v for k, v in said.items() if v is not None})
        with pytest.raises(error, match=f"(?s){message}"):
            product.build()


def test_an_api_that_gives_the_same_page_for_ever(tmp_path):
    with json_api(events(0, 25)) as api:
        api.answer = lambda path, query: ({"data": {"items": api.records[:10]}, "meta": {"next": "10"}}, {})
        product = Bronze(tmp_path, source(api, "cursor"))
        with pytest.raises(CorruptError, match="names a page as the next one that it gave already"):
            product.build()


def test_values_of_an_api_are_kept_as_they_came(tmp_path):
    record = {
        "id": 1,
        "at": "2026-11-01T00:00:00.500Z",
        "n": {"a": [1, {"b": None}], "t": "2026-01-01"},
        "big": 2**60,
    }
    with json_api([record], column="at") as api:
        product = Bronze(tmp_path, source(api, "none", column="at"))
        product.build()
        assert product.rows('SELECT "at", n.t, big FROM bronze.events') == [
            ("2026-11-01T00:00:00.500Z", "2026-01-01", 2**60)
        ]
        found = product.rows("SELECT to_json(n), _source, _batch FROM bronze.events")
        assert json.loads(found[0][0])["a"] == [1, {"b": None}]
        assert found[0][1:] == (f"{api.url}/plain", 1)
        product.build()
        assert api.requests[-1][1]["since"] == "2026-11-01T00:00:00.500Z"


def test_numbers_and_drift_do_not_double_the_last_rows(tmp_path):
    with json_api([{"id": "9", "v": 1}, {"id": "10", "v": 2}]) as api:
        product = Bronze(tmp_path, source(api, "none"))
        product.build()
        assert product.state().taken.cursors[f"{api.url}/plain"].value == "10"
        api.inclusive = True
        api.answer = lambda path, query: (api.records, {})
        api.records += [{"id": "11", "v": 2.5, "more": {"x": 1}}]
        out = product.build()
        assert out.counts.rows_out == 1
        assert out.commits[0].changes == (
            "new column more: STRUCT(x BIGINT)",
            "column v: BIGINT became DOUBLE, read as DOUBLE",
        )
        assert product.rows("SELECT id, v, more FROM bronze.events ORDER BY v") == [
            ("9", 1.0, None),
            ("10", 2.0, None),
            ("11", 2.5, {"x": 1}),
        ]


DAY = [{"id": i, "at": f"2026-11-{i:02}T00:00:00Z"} for i in range(1, 21)]


def test_a_backfill_adds_what_is_missing_and_the_watermark_stays(tmp_path):
    with json_api(DAY[9:15], column="at") as api:
        product = Bronze(tmp_path, source(api, "none", column="at"))
        product.build()
        api.records = list(DAY)
        out = product.build(since=datetime(2026, 11, 5, tzinfo=UTC), until=datetime(2026, 11, 12, tzinfo=UTC))
        assert out.counts.rows_out == 5
        assert ids(product) == list(range(5, 16))
        assert (
            product.build(
                since=datetime(2026, 11, 5, tzinfo=UTC), until=datetime(2026, 11, 12, tzinfo=UTC)
            ).commits
            == ()
        )
        later = product.build(since=datetime(2026, 11, 14, tzinfo=UTC))
        assert later.commits == ()
        assert later.notes == (f"5 newer rows of {api.url}/plain come with the next build",)
        product.build()
        assert ids(product) == list(range(5, 21))


def test_an_api_taken_anew_replaces_what_was_there(tmp_path):
    with json_api(events(0, 12)) as api:
        product = Bronze(tmp_path, source(api))
        product.build()
        api.records = events(5, 15)
        out = product.build(full=True)
        assert [c.version for c in out.commits] == ["2"]
        assert ids(product) == list(range(5, 15))
        assert product.build().status == "unchanged"
        api.records += events(15, 17)
        product.build()
        assert ids(product) == list(range(5, 17))
        api.faults = [None, *[500] * 20]
        with pytest.raises(UnreachableError):
            product.build(full=True)
        assert ids(product) == list(range(5, 17))


def test_a_cursor_of_numbers_cannot_be_filled_by_time(tmp_path):
    with json_api(events(0, 5)) as api:
        product = Bronze(tmp_path, source(api, "none"))
        product.build()
        api.answer = lambda path, query: (api.records, {})
        with pytest.raises(UsageError, match=r"cursor of .* holds numbers"):
            product.build(since=datetime(2026, 1, 1, tzinfo=UTC))


def test_pending_says_from_where_and_asks_nobody(tmp_path):
    with json_api(events(0, 5), column="at") as api:
        product = Bronze(tmp_path, source(api, "none", column="at", name="clicks"))
        assert product.pending() == "clicks from the beginning"
        assert api.requests == []
        product.build()
        assert product.pending() == "clicks since 2026-11-01T00:00:04Z"


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            [{"kind": "sql", "sql": f"SELECT {i} AS i", "cursor": {"column": "i"}} for i in (1, 2)],
            "2 sources are called sql",
        ),
        (
            [
                {
                    "kind": "http",
                    "url": "http://x/",
                    "paging": {"style": "cursor"},
                    "cursor": {"column": "id"},
                }
            ],
            "`next` is to say where",
        ),
    ],
)
def test_sources_that_cannot_be_right(sources, message, tmp_path):
    with pytest.raises(CatalogError, match=message):
        Bronze(tmp_path, *sources).build()


# --- SQL ------------------------------------------------------------------------------------------

ORDERS = {"name": "shop.orders", "location": "orders/*.parquet", "format": "parquet"}


def orders(folder, name, sql):
    import duckdb

    (folder / "orders").mkdir(exist_ok=True)
    duckdb.sql(f"COPY ({sql}) TO '{folder / 'orders' / name}.parquet' (FORMAT parquet)")


def test_sql_over_products(tmp_path):
    said = {
        "kind": "sql",
        "sql": "SELECT day, sum(n) AS n, max(n) AS m FROM shop.orders GROUP BY ALL -- all",
        "cursor": {"column": "day"},
    }
    product = Bronze(tmp_path, said, products=[ORDERS])
    orders(tmp_path, "a", "SELECT DATE '2026-01-01' + (i // 2)::INT AS day, i AS n FROM range(6) t(i)")
    out = product.build()
    assert out.counts.rows_out == 3
    assert list(out.commits[0].inputs) == ["shop.orders"]
    assert product.build().status == "unchanged"
    orders(tmp_path, "b", "SELECT DATE '2026-01-04' AS day, 9::BIGINT AS n")
    assert product.build().counts.rows_out == 1
    rows = product.rows("SELECT day::VARCHAR, n, _source, _batch FROM bronze.events ORDER BY day")
    assert [(d, int(n), s, b) for d, n, s, b in rows][2:] == [
        ("2026-01-03", 9, "sql", 1),
        ("2026-01-04", 9, "sql", 2),
    ]


def test_rows_of_sql_that_come_late_with_the_same_value(tmp_path):
    said = {"kind": "sql", "sql": "FROM shop.orders", "cursor": {"column": "at"}}
    product = Bronze(tmp_path, said, products=[ORDERS])
    same = "TIMESTAMP '2026-01-01 10:00:00' AS at"
    orders(tmp_path, "a", f"SELECT {same}, 'x' AS who FROM range(2)")
    assert product.build().counts.rows_out == 2
    # Another of the very same row, and one that differs.
    orders(tmp_path, "b", f"SELECT {same}, 'x' AS who UNION ALL SELECT {same}, 'y'")
    assert product.build().counts.rows_out == 2
    assert product.build().status == "unchanged"
    assert product.rows("SELECT who, count(*) FROM bronze.events GROUP BY ALL ORDER BY ALL") == [
        ("x", 3),
        ("y", 1),
    ]


def test_sql_that_is_wrong(tmp_path):
    product = Bronze(
        tmp_path,
        {"kind": "sql", "sql": "SELECT nope FROM shop.orders", "cursor": {"column": "at"}},
        products=[ORDERS],
    )
    orders(tmp_path, "a", "SELECT 1 AS at")
    with pytest.raises(QueryError, match="nope"):
        product.build()


# --- Python ---------------------------------------------------------------------------------------


def function(folder, body, name="things"):
    (folder / f"{name}.py").write_text(
        f"import pyarrow, decimal, datetime\n\ndef take(since, **options):\n    {body}\n"
    )
    return {"kind": "python", "function": f"{name}:take", "options": {"top": 8}, "cursor": {"column": "id"}}


@pytest.mark.parametrize(
    "body",
    [
        "return [{'id': i, 'v': {'a': i}} for i in range(since or 0, options['top'])]",
        "yield from ({'id': i, 'v': {'a': i}} for i in range(since or 0, options['top']))",
        "return pyarrow.table({'id': range(since or 0, options['top']), 'v': [{'a': i} for i in range(since or 0, options['top'])]})",
        "yield pyarrow.table({'id': range(since or 0, options['top']), 'v': [{'a': i} for i in range(since or 0, options['top'])]})",
    ],
    ids=["list", "generator", "arrow", "tables"],
)
def test_a_python_function(body, tmp_path, request):
    name = f"things_{request.node.callspec.id}"
    said = function(tmp_path, body, name)
    product = Bronze(tmp_path, said)
    assert product.build().counts.rows_out == 8
    said["options"] = {"top": 11}
    product = Bronze(tmp_path, said)
    assert product.build().counts.rows_out == 3
    assert product.build().status == "unchanged"
    assert product.rows("SELECT v.a, _source FROM bronze.events ORDER BY id DESC LIMIT 1") == [
        (10, f"{name}:take")
    ]


def test_rows_of_a_function_that_are_not_alike(tmp_path):
    said = function(
        tmp_path,
        "return [{'id': 1, 'x': 1}, {'id': 2, 'x': 'two', 'y': decimal.Decimal('1.50')}, {'id': 3, 'x': None}]",
        "odd_rows",
    )
    product = Bronze(tmp_path, said)
    product.build()
    assert [(i, x) for i, x in product.rows("SELECT id, x FROM bronze.events ORDER BY id")] == [
        (1, "1"),
        (2, "two"),
        (3, None),
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('no such day')", "take failed: ValueError: no such day"),
        ("return 'rows'", "take failed: TypeError: it gives a str, not rows"),
        ("return [1, 2]", "take failed: TypeError: it gives a int"),
        ("yield {'id': 1}; raise KeyError('gone')", "take failed: KeyError: 'gone'"),
        ("return [{'id': None}]", "have no value in id"),
    ],
)
def test_a_function_that_fails(body, message, tmp_path):
    product = Bronze(tmp_path, function(tmp_path, body, f"bad_{abs(hash(body))}"))
    with pytest.raises(QueryError, match=message):
        product.build()
    assert product.state().number == 0


def test_a_function_that_is_not_there(tmp_path):
    product = Bronze(
        tmp_path, {"kind": "python", "function": "no_such_module:take", "cursor": {"column": "id"}}
    )
    with pytest.raises(QueryError, match=r"no_such_module:take failed: ModuleNotFoundError"):
        product.build()


def test_values_of_a_function_that_have_no_text_are_refused_and_others_of_several_types_are_text(tmp_path):
    (tmp_path / "mixed_rows.py").write_text(
        "import datetime\n"
        "class Thing: pass\n"
        "def mixed(since):\n"
        "    values = [1, 'x', datetime.date(2026, 1, 2), {'at': datetime.date(2026, 1, 3)}, None]\n"
        "    return [{'id': n, 'v': v} for n, v in enumerate(values)]\n"
        "def broken(since):\n"
        "    return [{'id': 1, 'v': 'x'}, {'id': 2, 'v': Thing()}]\n"
        "def raw(since):\n"
        "    return [{'id': 1, 'v': 1}, {'id': 2, 'v': b'x'}]\n"
    )
    product = Bronze(tmp_path, {"kind": "python", "function": "mixed_rows:mixed", "cursor": {"column": "id"}})
    product.build()
    with meshql.connect(tmp_path) as mesh:
        found = mesh.sql("SELECT v FROM bronze.events ORDER BY id").fetchall()
    assert found == [("1",), ("x",), ("2026-01-02",), ('{"at": "2026-01-03"}',), (None,)]
    for function, kind in (("broken", "Thing"), ("raw", "bytes")):
        folder = tmp_path / function
        folder.mkdir()
        (folder / "mixed_rows.py").write_text((tmp_path / "mixed_rows.py").read_text())
        odd = Bronze(
            folder, {"kind": "python", "function": f"mixed_rows:{function}", "cursor": {"column": "id"}}
        )
        with pytest.raises(QueryError, match=f"a value of v is a {kind}, which has no text"):
            odd.build()

"""Charts in the terminal: which columns they show, and how they are drawn."""

from __future__ import annotations

import re

import duckdb
import pytest

from meshql.errors import UsageError
from meshql.output.visible import width_of
from meshql.shell.chart import chart_of, compact, moment, ticks, time_ticks
from meshql.shell.plot import plot

CHANNELS = "VALUES ('online', 120.5), ('store', 80), (NULL, 12), ('phone', NULL)"

DAYS = (
    "SELECT (DATE '2026-01-01' + INTERVAL (i) DAY)::DATE AS day, i * 10 AS revenue, 900 - i AS forecast"
    " FROM range(60) t(i)"
)


def table(sql):
    return duckdb.sql(sql).to_arrow_table()


def channels():
    return table(f"SELECT * FROM ({CHANNELS}) t(channel, revenue)")


def drawn(arrow, kind=None, *, width=80, height=20, colour=False):
    return plot(arrow, kind, width=width, height=height, colour=colour)


def test_texts_make_bars_with_names_and_values():
    lines = drawn(channels()).split("\n")
    assert lines[0] == "revenue by channel"
    (online,) = (line for line in lines if "online┤" in line)
    (store,) = (line for line in lines if "store┤" in line)
    assert online.count("█") > store.count("█") > 0
    assert "120.5" in online
    assert any("NULL┤" in line for line in lines)
    assert not any("phone" in line for line in lines)
    assert re.search(r"channel +revenue", lines[-1])


@pytest.mark.parametrize(
    ("sql", "kind", "x_name", "series"),
    [
        (DAYS, "line", "day", ["revenue", "forecast"]),
        ("SELECT 'a' AS t, 1 AS n, 2.5 AS m", "bar", "t", ["n", "m"]),
        ("SELECT true AS b, 1::HUGEINT AS n", "bar", "b", ["n"]),
        ("SELECT 5 AS n, 'a' AS t, DATE '2026-01-01' AS d", "line", "d", ["n"]),
        ("SELECT 2020 + i AS year, i * i AS n FROM range(5) t(i)", "line", "year", ["n"]),
        ("SELECT 'a' AS t, 17 AS customer_id, 5 AS n", "bar", "t", ["n"]),
        ("SELECT 'a' AS t, 17 AS customer_id", "bar", "t", ["customer_id"]),
        ("SELECT i % 7 AS dice FROM range(100) t(i)", "hist", "dice", ["rows"]),
        ("SELECT i % 3 AS a FROM range(5) t(i)", "line", "row", ["a"]),
        ("SELECT TIME '10:00' + INTERVAL (i) MINUTE AS at, i FROM range(5) t(i)", "line", "at", ["i"]),
        ("SELECT make_timestamp_ns(i * 1000000007) AS at, i FROM range(5) t(i)", "line", "at", ["i"]),
        ("SELECT [1] AS list, {'a': 1} AS struct, 'x' AS t, 1 AS n", "bar", "t", ["n"]),
    ],
)
def test_columns_choose_the_chart(sql, kind, x_name, series):
    chart = chart_of(table(sql))
    assert (chart.kind, chart.x_name, [s.name for s in chart.series]) == (kind, x_name, series)
    assert drawn(table(sql)).startswith(chart.title)


def test_members_of_a_text_column_become_series():
    long = "SELECT d::DATE AS day, c AS channel, 1 AS n FROM (VALUES ('a'), ('b')) v(c), (VALUES ('2026-01-01'), ('2026-01-02')) w(d)"
    chart = chart_of(table(long))
    assert [s.name for s in chart.series] == ["a", "b"]
    assert len(chart.x) == 2
    assert chart.title == "n of each channel by day"
    months = "SELECT c AS channel, m AS month, m * 10 AS n FROM (VALUES ('a'), ('b')) v(c), range(1, 13) r(m)"
    chart = chart_of(table(months))
    assert (chart.kind, chart.x_name, [s.name for s in chart.series]) == ("line", "month", ["a", "b"])
    assert chart.x == tuple(range(1, 13))


def test_dates_stand_below_a_line():
    text = drawn(table(DAYS), width=100)
    assert "2026-01-" in text
    assert "revenue, forecast by day" in text
    assert re.search(r"revenue, forecast +day", text)


@pytest.mark.parametrize("kind", [None, "bar", "line", "hist"])
@pytest.mark.parametrize("sql", [DAYS, f"SELECT * FROM ({CHANNELS}) t(channel, revenue)", "SELECT 1 AS n"])
@pytest.mark.parametrize("width", [40, 120])
def test_every_chart_fits_and_needs_no_colour(kind, sql, width):
    plain = drawn(table(sql), kind, width=width)
    assert "\x1b" not in plain
    assert max(map(width_of, plain.split("\n"))) <= width
    assert "\x1b[" in drawn(table(sql), kind, width=width, colour=True)


def test_series_differ_without_colour():
    text = drawn(table(DAYS))
    assert "* revenue  o forecast" in text
    assert text.count("*") > 10
    assert text.count("o") > 10
    assert "█ revenue  ▒ forecast" in drawn(table(DAYS), "bar")


def test_bars_that_are_left_out_are_counted():
    text = drawn(table("SELECT 'n' || i AS name, i FROM range(70) t(i)"))
    assert text.endswith("20 of 70 bars are not shown")
    assert "n49┤" in text
    assert "n50" not in text


def test_series_that_are_left_out_are_counted():
    columns = ", ".join(f"{i} AS s{i}" for i in range(11))
    assert drawn(table(f"SELECT 'a' AS t, {columns}")).endswith("3 of 11 series are not shown")


def test_negative_values_go_to_the_left():
    lines = drawn(table("SELECT * FROM (VALUES ('a', 10), ('b', -10)) t(t, n)")).split("\n")
    a, b = (next(line for line in lines if f"{name}┤" in line) for name in "ab")
    assert a.index("█") > b.index("█")
    assert "-10" in b


def test_a_histogram_counts_every_value():
    chart = chart_of(table("SELECT i / 100 AS x FROM range(1000) t(i) UNION ALL SELECT NULL"), "hist")
    assert sum(chart.series[0].values) == 1000
    assert chart.x[0] <= 0
    assert chart.x[-1] >= 9.99
    whole = chart_of(table("SELECT i % 7 AS dice FROM range(70) t(i)"), "hist")
    assert whole.series[0].values == (10,) * 7


def test_infinite_values_are_skipped():
    chart = chart_of(table("SELECT * FROM (VALUES ('a', 'inf'::DOUBLE), ('b', 'nan'), ('c', 1)) t(t, n)"))
    assert chart.numbers() == [1]
    dates = "SELECT * FROM (VALUES (DATE 'infinity', 1), (DATE '2026-01-01', 2)) t(d, n)"
    assert drawn(table(dates))


def test_a_long_line_keeps_its_extremes():
    chart = chart_of(
        table("SELECT i AS x, CASE i WHEN 77777 THEN 1e6 ELSE i % 10 END AS y FROM range(100000) t(i)")
    )
    assert len(chart.x) < 5000
    assert max(chart.numbers()) == 1e6


@pytest.mark.parametrize(
    ("sql", "kind", "words"),
    [
        ("SELECT 'a' AS t", None, "no numeric column"),
        ("SELECT 1 AS n WHERE false", None, "no rows"),
        ("SELECT 'a' AS t, NULL::INT AS n", None, "all values of n are NULL"),
        ("SELECT NULL::INT AS n", "hist", "all values of n are NULL"),
        ("SELECT 1 AS n", "pie", "no chart is called pie"),
    ],
)
def test_what_cannot_be_drawn_is_told(sql, kind, words):
    with pytest.raises(UsageError, match=words):
        drawn(table(sql), kind)


def test_the_error_for_no_numbers_has_a_hint():
    with pytest.raises(UsageError) as error:
        drawn(table("SELECT 'a' AS t"))
    assert "count(*)" in error.value.hint


def test_names_cannot_move_the_cursor():
    text = drawn(table('SELECT \'\x1b[2J\' AS "\x1b[31m", 1 AS "\x07n"'))
    assert "\x1b" not in text
    assert "\\x1b[2J" in text


def test_ticks_are_round():
    assert ticks(0, 97, 5) == [0, 20, 40, 60, 80, 100]
    assert ticks(-3, 3, 3) == [-4, -2, 0, 2, 4]
    assert ticks(5, 5, 2)[0] < 5 < ticks(5, 5, 2)[-1]
    day = 86400.0
    assert time_ticks(0, 10 * day, 5)[0] == [0, 2 * day, 4 * day, 6 * day, 8 * day, 10 * day]
    at, step = time_ticks(0, 365 * day, 6)
    months = ["1970-01", "1970-04", "1970-07", "1970-10", "1971-01"]
    assert [moment(t, step) for t in at] == months
    assert [moment(t) for t in time_ticks(0, 30 * day, 4)[0]] == [
        "1970-01-01",
        "1970-01-15",
        "1970-01-29",
    ]
    assert moment(36_600.0, 60) == "10:10"
    assert moment(1.75e9, 3600) == "06-15 15:06"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (2025, "2,025"),
        (12_400, "12,400"),
        (1_250_000, "1.25M"),
        (0.03125, "0.03125"),
        (-3e9, "-3G"),
    ],
)
def test_numbers_are_short(value, text):
    assert compact(value) == text

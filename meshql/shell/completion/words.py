"""Which keywords follow which: short lists, the likely ones first."""

from __future__ import annotations

__all__ = [
    "AFTER_STAR",
    "AFTER_TABLE",
    "CASE_WORDS",
    "CLAUSES_AFTER",
    "COPY_OPTIONS",
    "COPY_SHAPES",
    "FOLLOWING",
    "IN_FUNCTION",
    "JOINS",
    "NEGATED",
    "OPERAND_AFTER",
    "OPERAND_WORDS",
    "OPERATORS",
    "OVER_WORDS",
    "QUERIES",
    "STATEMENTS",
    "vocabulary",
]


def vocabulary(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


STATEMENTS = (
    "SELECT",
    "FROM",
    "WITH",
    "DESCRIBE",
    "SUMMARIZE",
    "EXPLAIN",
    "EXPLAIN ANALYZE",
    "SHOW",
    "COPY",
    "CREATE",
    "INSERT INTO",
    "UPDATE",
    "DELETE FROM",
    "PIVOT",
    "UNPIVOT",
    "SET",
    "RESET",
    "PRAGMA",
    "VALUES",
    "DROP",
    "ALTER TABLE",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "ATTACH",
    "DETACH",
    "USE",
    "CALL",
    "LOAD",
    "INSTALL",
    "CHECKPOINT",
    "TRUNCATE",
)

QUERIES = ("SELECT", "FROM", "WITH", "VALUES")

JOINS = (
    "JOIN",
    "LEFT JOIN",
    "INNER JOIN",
    "RIGHT JOIN",
    "FULL JOIN",
    "CROSS JOIN",
    "ASOF JOIN",
    "SEMI JOIN",
    "ANTI JOIN",
    "NATURAL JOIN",
    "POSITIONAL JOIN",
)

SET_OPERATIONS = ("UNION ALL", "UNION", "UNION BY NAME", "EXCEPT", "INTERSECT")

AFTER_GROUPING = ("HAVING", "QUALIFY", "ORDER BY", "LIMIT", *SET_OPERATIONS)

AFTER_TABLE = (
    "WHERE",
    *JOINS,
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "AS",
    "TABLESAMPLE",
    "QUALIFY",
    *SET_OPERATIONS,
)

OPERATORS = (
    "AND",
    "OR",
    "IN",
    "NOT IN",
    "LIKE",
    "ILIKE",
    "NOT LIKE",
    "BETWEEN",
    "IS NULL",
    "IS NOT NULL",
    "IS DISTINCT FROM",
    "SIMILAR TO",
    "GLOB",
    "COLLATE",
)

NEGATED = ("IN", "LIKE", "ILIKE", "BETWEEN", "SIMILAR TO", "NULL")

CLAUSES_AFTER: dict[str, tuple[str, ...]] = {
    "select": (
        "FROM",
        "AS",
        "OVER",
        "FILTER",
        "WHERE",
        *OPERATORS,
        "GROUP BY",
        "ORDER BY",
        "LIMIT",
        *SET_OPERATIONS,
    ),
    "where": (*OPERATORS, "GROUP BY", "ORDER BY", "LIMIT", "QUALIFY", "HAVING", "SELECT", *SET_OPERATIONS),
    "on": ("AND", "OR", "WHERE", *JOINS, "GROUP BY", "ORDER BY", "LIMIT", *OPERATORS[2:]),
    "having": (*OPERATORS, *AFTER_GROUPING[1:]),
    "qualify": (*OPERATORS, "ORDER BY", "LIMIT", *SET_OPERATIONS),
    "group by": (*AFTER_GROUPING, "SELECT"),
    "order by": ("DESC", "ASC", "NULLS LAST", "NULLS FIRST", "LIMIT", "OFFSET", *SET_OPERATIONS),
    "partition by": ("ORDER BY", "ROWS BETWEEN", "RANGE BETWEEN"),
    "limit": ("OFFSET", "PERCENT", *SET_OPERATIONS),
    "offset": ("LIMIT", "ROWS", *SET_OPERATIONS),
    "set": ("WHERE", "FROM", "RETURNING", *OPERATORS),
    "using": ("GROUP BY", "AS", "ORDER BY", "LIMIT", *AFTER_TABLE),
}
"""What may follow an operand, by the clause that it stands in."""

IN_FUNCTION = (*OPERATORS, "ORDER BY", "AS")

AFTER_STAR = ("FROM", "EXCLUDE", "REPLACE", "RENAME", "WHERE")

CASE_WORDS = ("WHEN", "THEN", "ELSE", "END")

OVER_WORDS = ("PARTITION BY", "ORDER BY", "ROWS BETWEEN", "RANGE BETWEEN")

COPY_OPTIONS = (
    "FORMAT",
    "HEADER",
    "DELIMITER",
    "COMPRESSION",
    "PARTITION_BY",
    "OVERWRITE_OR_IGNORE",
    "ROW_GROUP_SIZE",
    "FILE_SIZE_BYTES",
)

COPY_SHAPES = ("(FORMAT parquet)", "(FORMAT csv, HEADER)", "(FORMAT json)")

OPERAND_WORDS = ("CASE", "CAST", "NOT", "NULL", "TRUE", "FALSE", "EXISTS", "INTERVAL", "DATE", "TIMESTAMP")
"""Keywords that a value may begin with."""

OPERAND_AFTER = vocabulary(
    "and or not between like ilike in case when then else distinct all any some select where having qualify"
    " by on set returning glob escape limit offset values using similar to as from"
)
"""Words after which a value is expected rather than an operator."""

FOLLOWING: dict[str, tuple[str, ...]] = {
    "group": ("BY", "BY ALL"),
    "order": ("BY", "BY ALL"),
    "partition": ("BY",),
    "left": ("JOIN", "OUTER JOIN", "SEMI JOIN", "ANTI JOIN"),
    "right": ("JOIN", "OUTER JOIN"),
    "full": ("JOIN", "OUTER JOIN"),
    "inner": ("JOIN",),
    "outer": ("JOIN",),
    "cross": ("JOIN",),
    "natural": ("JOIN", "LEFT JOIN"),
    "asof": ("JOIN", "LEFT JOIN"),
    "positional": ("JOIN",),
    "semi": ("JOIN",),
    "anti": ("JOIN",),
    "is": ("NULL", "NOT NULL", "TRUE", "FALSE", "DISTINCT FROM", "NOT DISTINCT FROM"),
    "similar": ("TO",),
    "nulls": ("LAST", "FIRST"),
    "insert": ("INTO", "OR REPLACE INTO", "OR IGNORE INTO"),
    "delete": ("FROM",),
    "create": ("TABLE", "TEMP TABLE", "VIEW", "TEMP VIEW", "OR REPLACE", "MACRO", "SECRET", "SCHEMA"),
    "temp": ("TABLE", "VIEW"),
    "drop": ("TABLE", "VIEW", "MACRO", "SECRET", "SCHEMA"),
    "alter": ("TABLE",),
    "explain": ("ANALYZE", "SELECT", "FROM", "WITH"),
    "with": ("RECURSIVE",),
    "to": (),
    "attach": (),
    "detach": (),
    "load": (),
    "install": (),
    "within": ("GROUP",),
}
"""What may follow a word wherever it stands; nothing is offered after those with an empty list."""

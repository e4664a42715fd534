CREATE OR REPLACE TEMP TABLE types AS
SELECT
  1 AS id,
  true AS "boolean",
  (-128)::TINYINT AS tinyint,
  9223372036854775807::BIGINT AS bigint,
  170141183460469231731687303715884105::HUGEINT AS hugeint,
  18446744073709551616::UHUGEINT AS uhugeint,
  '123456789012345678901234567890123456789012'::BIGNUM AS bignum,
  0.1::FLOAT AS "float",
  'nan'::DOUBLE AS "double",
  12345678901234567890.12::DECIMAL(38, 2) AS "decimal",
  E'a|b, "c" <d> \\ *e* _f_ &amp;' AS markup,
  E'line\nline\ttab\r\x1b[31mred' AS control,
  '日本 👩‍👩‍👧 é' AS wide,
  '\xAA\x00z'::BLOB AS "blob",
  '10101'::BIT AS "bit",
  DATE '2024-02-29' AS "date",
  TIME '12:34:56.789' AS "time",
  '12:00:00+05:30'::TIMETZ AS timetz,
  TIMESTAMP '2024-02-29 12:34:56.789012' AS "timestamp",
  TIMESTAMP_S '2024-02-29 12:34:56' AS timestamp_s,
  TIMESTAMP_MS '2024-02-29 12:34:56.789' AS timestamp_ms,
  TIMESTAMP_NS '2024-02-29 12:34:56.789012345' AS timestamp_ns,
  TIMESTAMPTZ '2024-02-29 12:34:56+00' AS timestamptz,
  INTERVAL '1 year 2 days 3 microseconds' AS "interval",
  UUID 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' AS uuid,
  'small'::ENUM('small', 'large') AS "enum",
  '{"k": [1, null, {"x": "y"}]}'::JSON AS json,
  [1, NULL, 3] AS list,
  [1.5, 2.5]::DOUBLE[2] AS "array",
  {'n': 1::HUGEINT, 'j': '{"x": 1}'::JSON, 'b': '10'::BIT} AS struct,
  MAP {'k': [UUID 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']} AS map,
  union_value(num := 1)::UNION(num INTEGER, str VARCHAR) AS "union",
  'NULL' AS word;

INSERT INTO types VALUES (
  2, false, 0, 0, 0, 0, 0, '-inf', 1e100, 0, '', ' ', 'x ', '', '0', '-infinity', '00:00', '00:00:00-15:59:59',
  '-infinity', '1970-01-01', '1970-01-01', '1970-01-01', 'infinity', INTERVAL 0 DAY,
  '00000000-0000-0000-0000-000000000000', 'large', 'null', [], [0, 0], NULL, MAP {}, 'text', ''
);

INSERT INTO types (id) VALUES (3);

SELECT *, 1 AS twice, 2 AS twice FROM types ORDER BY id;

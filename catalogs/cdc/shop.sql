-- The shop's database, as it is when meshql first sees it.
CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    country char(2) NOT NULL,
    tags text[] NOT NULL DEFAULT '{}'
);

CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers,
    status text NOT NULL DEFAULT 'open',
    amount numeric(10, 2) NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO customers (name, country, tags)
SELECT 'customer ' || i, (ARRAY['DE', 'FR', 'BR', 'JP'])[1 + i % 4], CASE WHEN i % 10 = 0 THEN '{vip}'::text[] ELSE '{}' END
FROM generate_series(1, 200) i;

INSERT INTO orders (customer_id, status, amount)
SELECT 1 + i % 200, (ARRAY['open', 'paid', 'paid'])[1 + i % 3], 5 + i % 97
FROM generate_series(1, 5000) i;

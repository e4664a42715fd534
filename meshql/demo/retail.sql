-- A retail company's tables, the same on every machine: each value is a function of its row's number,
-- in integers or in +, - and * on doubles, with $rows orders.

SET VARIABLE orders = $rows;
SET VARIABLE customers = greatest($rows // 20, 1000);
SET VARIABLE products = 2000;

CREATE MACRO u(n, salt) AS (hash(n, salt) % 1000000)::DOUBLE / 1000000;
CREATE MACRO pick(things, n, salt) AS things[1 + (hash(n, salt) % len(things))::INTEGER];
CREATE MACRO euros(cents) AS (cents::DECIMAL(18, 0) / 100)::DECIMAL(10, 2);
CREATE MACRO list_cents(product) AS
    ((499 + (u(product, 'price') * u(product, 'price') * u(product, 'price') * 45000)::BIGINT) // 100) * 100 + 99;
CREATE MACRO country_of(customer) AS
    pick(['PT', 'PT', 'PT', 'ES', 'ES', 'FR', 'FR', 'DE', 'DE', 'IT', 'NL', 'GB', 'US', 'BR'], customer, 'country');

CREATE TABLE products AS
SELECT
    n AS product_id,
    format('{}-{:05d}', upper(category[:3]), n) AS sku,
    format('{} {} {}', pick(['Small', 'Large', 'Classic', 'Compact', 'Deluxe', 'Everyday', 'Premium', 'Travel'], n, 'size'),
        pick(['Oak', 'Steel', 'Linen', 'Cotton', 'Glass', 'Ceramic', 'Cork', 'Bamboo', 'Copper', 'Wool'], n, 'stuff'),
        noun) AS name,
    category,
    pick(['Aurora', 'Belmonte', 'Casa Nova', 'Douro', 'Estrela', 'Faial', 'Graça', 'Horizonte'], n, 'brand') AS brand,
    euros(list_cents(n)) AS list_price,
    euros(list_cents(n) * (45 + (u(n, 'cost') * 25)::BIGINT) // 100) AS unit_cost,
    DATE '2020-01-01' + (u(n, 'launch') * 1800)::INTEGER AS launched_on
FROM (
    SELECT n,
        pick(['Kitchen', 'Garden', 'Toys', 'Office', 'Sports', 'Beauty', 'Home', 'Outdoor'], n, 'category') AS category,
        pick(CASE category
            WHEN 'Kitchen' THEN ['Pan', 'Knife', 'Bowl', 'Kettle', 'Board']
            WHEN 'Garden' THEN ['Planter', 'Rake', 'Bench', 'Lantern', 'Hose']
            WHEN 'Toys' THEN ['Puzzle', 'Train', 'Doll', 'Kite', 'Blocks']
            WHEN 'Office' THEN ['Desk', 'Lamp', 'Chair', 'Notebook', 'Organiser']
            WHEN 'Sports' THEN ['Mat', 'Ball', 'Racket', 'Bottle', 'Weights']
            WHEN 'Beauty' THEN ['Brush', 'Mirror', 'Soap Dish', 'Towel', 'Comb']
            WHEN 'Home' THEN ['Throw', 'Vase', 'Rug', 'Frame', 'Clock']
            ELSE ['Tent', 'Backpack', 'Hammock', 'Stove', 'Cooler'] END, n, 'noun') AS noun
    FROM range(1, getvariable('products') + 1) AS r(n)
)
ORDER BY n;

-- Customers sign up evenly from 2022 to 2026, in the order of their ids.
CREATE TABLE customers AS
SELECT
    n AS customer_id,
    format('{} {}', first, last) AS name,
    format('{}.{}.{}@example.com', lower(strip_accents(first)), lower(strip_accents(last)), n) AS email,
    country_of(n) AS country,
    CASE WHEN u(n, 'segment') < 0.70 THEN 'consumer' WHEN u(n, 'segment') < 0.93 THEN 'small business' ELSE 'corporate' END AS segment,
    DATE '2022-01-01' + ((n - 1) * 1826 // getvariable('customers'))::INTEGER AS signed_up_on,
    u(n, 'consent') < 0.6 AS marketing_consent
FROM (
    SELECT n,
        pick(['Ana', 'João', 'Maria', 'Tiago', 'Inês', 'Miguel', 'Sofia', 'Lucas', 'Clara', 'Hugo', 'Elena', 'Paul',
            'Emma', 'Louis', 'Giulia', 'Noah', 'Olivia', 'Jan', 'Beatriz', 'Rui'], n, 'first') AS first,
        pick(['Silva', 'Santos', 'Ferreira', 'Costa', 'García', 'Martin', 'Bernard', 'Müller', 'Schmidt', 'Rossi',
            'de Vries', 'Smith', 'Jones', 'Oliveira', 'Almeida', 'Lopez', 'Weber', 'Dubois'], n, 'last').replace(' ', '') AS last
    FROM range(1, getvariable('customers') + 1) AS r(n)
)
ORDER BY n;

-- Sales grow over two years and peak before Christmas: each month's share of the orders, in parts.
CREATE TABLE months AS
SELECT
    n AS month_number,
    DATE '2025-01-01' + to_months(n::INTEGER - 1) AS first_day,
    date_diff('day', first_day, first_day + INTERVAL 1 MONTH) AS days,
    parts,
    (sum(parts) OVER (ORDER BY n) - parts) * getvariable('orders') // sum(parts) OVER () AS low,
    sum(parts) OVER (ORDER BY n) * getvariable('orders') // sum(parts) OVER () AS high
FROM (
    SELECT unnest(range(1, 25)) AS n,
        unnest([62, 58, 70, 72, 76, 78, 74, 70, 80, 88, 120, 138, 74, 70, 84, 88, 92, 94, 90, 84, 98, 108, 146, 166]) AS parts
);

CREATE TABLE orders AS
WITH placed AS (
    SELECT unnest(range(low::BIGINT, high::BIGINT)) AS n, first_day, days, low, high FROM months
), timed AS (
    SELECT n + 1 AS order_id, first_day, ((n - low) * days)::BIGINT AS done, (high - low)::BIGINT AS size,
        (done // size)::INTEGER AS day, (done % size)::DOUBLE / size AS f
    FROM placed
), dated AS (
    -- From seven in the morning to half past eleven, more about noon and in the afternoon.
    SELECT order_id, (first_day + to_days(day))::DATE AS order_date,
        25200 + (59400 * (f + 0.35 * (4 * (f - 0.5) * (f - 0.5) * (f - 0.5) - (f - 0.5))))::BIGINT AS second
    FROM timed
), drawn AS (
    SELECT *,
        1 + (u(order_id, 'customer') * (getvariable('customers') * date_diff('day', DATE '2022-01-01', order_date) // 1826))::BIGINT AS customer,
        1 + (u(order_id, 'product') * u(order_id, 'product') * 1999.4)::BIGINT AS product_id,
        1 + (u(order_id, 'quantity') * u(order_id, 'quantity') * u(order_id, 'quantity') * 5)::INTEGER AS quantity,
        pick([0, 0, 0, 0, 5, 10, 10, 20], order_id, 'discount') AS discount
    FROM dated
)
SELECT
    order_id,
    order_date + to_seconds(second) AS ordered_at,
    order_date,
    least(customer, getvariable('customers')) AS customer_id,
    product_id,
    quantity,
    euros((list_cents(product_id) * (100 - discount) + 50) // 100) AS unit_price,
    (quantity * unit_price)::DECIMAL(12, 2) AS amount,
    CASE WHEN u(order_id, 'channel') < 0.55 THEN 'web' WHEN u(order_id, 'channel') < 0.80 THEN 'app'
        WHEN u(order_id, 'channel') < 0.93 THEN 'store' ELSE 'marketplace' END AS channel,
    country_of(least(customer, getvariable('customers'))) AS country,
    year(order_date)::INTEGER AS year,
    month(order_date)::INTEGER AS month
FROM drawn
ORDER BY order_id;

-- A fifth of what is not handed over in a store travels with a carrier that reports back.
CREATE TABLE shipments AS
SELECT
    row_number() OVER (ORDER BY shipped_at, order_id) AS shipment_id,
    order_id,
    pick(['Lisbon', 'Madrid', 'Rotterdam', 'Hamburg'], order_id, 'warehouse') AS warehouse,
    pick(['Correio Azul', 'NordFracht', 'Rapide', 'Transiberica'], order_id, 'carrier') AS carrier,
    shipped_at,
    CASE WHEN arrives < TIMESTAMP '2026-12-31 00:00:00' THEN arrives END AS delivered_at,
    CASE WHEN delivered_at IS NULL THEN 'in transit' WHEN u(order_id, 'returned') < 0.04 THEN 'returned' ELSE 'delivered' END AS status,
    (0.2 + u(order_id, 'weight') * u(order_id, 'weight') * 12)::DECIMAL(8, 2) AS weight_kg,
    euros(350 + (u(order_id, 'freight') * 1200)::BIGINT) AS cost
FROM (
    SELECT order_id, ordered_at + to_hours(4 + (u(order_id, 'packing') * 40)::INTEGER) AS shipped_at,
        shipped_at + to_hours(20 + (u(order_id, 'transit') * 110)::INTEGER) AS arrives
    FROM orders WHERE channel <> 'store' AND hash(order_id, 'tracked') % 5 = 0
);

CREATE TABLE stock AS
SELECT warehouse, product_id, (u(product_id, warehouse) * 400)::INTEGER AS on_hand,
    (on_hand * u(product_id, warehouse || 'reserved') * 0.3)::INTEGER AS reserved,
    20 + (u(product_id, 'reorder') * 60)::INTEGER AS reorder_point,
    TIMESTAMP '2026-12-31 06:00:00' AS counted_at
FROM products, (SELECT unnest(['Lisbon', 'Madrid', 'Rotterdam', 'Hamburg', 'New York']) AS warehouse)
ORDER BY warehouse, product_id;

CREATE TABLE sessions AS
SELECT
    n AS session_id,
    TIMESTAMP '2026-01-01 00:00:00' + to_seconds((n * 31536000) // (getvariable('orders') * 3 // 10)) AS started_at,
    CASE WHEN u(n, 'known') < 0.4 THEN 1 + (u(n, 'who') * (getvariable('customers') * 4 // 5))::BIGINT END AS customer_id,
    pick(['phone', 'phone', 'phone', 'desktop', 'desktop', 'tablet'], n, 'device') AS device,
    pick(['search', 'search', 'direct', 'newsletter', 'social', 'affiliate'], n, 'source') AS source,
    '/' || pick(['', 'offers', 'kitchen', 'garden', 'toys', 'office', 'sports', 'beauty', 'home', 'outdoor'], n, 'page') AS landing_page,
    1 + (u(n, 'pages') * u(n, 'pages') * 24)::INTEGER AS pages,
    (u(n, 'seconds') * u(n, 'seconds') * 1800)::INTEGER AS seconds,
    u(n, 'converted') < 0.031 AS converted,
    year(started_at)::INTEGER AS year,
    month(started_at)::INTEGER AS month
FROM range(0, getvariable('orders') * 3 // 10) AS r(n)
ORDER BY n;

CREATE TABLE campaigns AS
SELECT
    format('C{:03d}', n) AS campaign_id,
    format('{} {}', CASE WHEN month(starts_on) <= 2 THEN 'Winter sale' WHEN month(starts_on) <= 5 THEN 'Spring'
        WHEN month(starts_on) <= 7 THEN 'Summer' WHEN month(starts_on) <= 9 THEN 'Back to school'
        WHEN month(starts_on) <= 11 THEN 'Black Friday' ELSE 'Christmas' END, year(starts_on)) AS name,
    pick(['search', 'newsletter', 'social', 'affiliate'], n, 'channel') AS channel,
    starts_on,
    starts_on + 7 + (u(n, 'length') * 20)::INTEGER AS ends_on,
    euros(50000 + (u(n, 'budget') * 2500000)::BIGINT) AS budget
FROM (SELECT n, DATE '2024-12-23' + (n * 15)::INTEGER AS starts_on FROM range(1, 49) AS r(n))
ORDER BY n;

CREATE TABLE tickets AS
SELECT
    n AS ticket_id,
    TIMESTAMP '2025-01-01 08:00:00' + to_minutes((n * 1050000) // (getvariable('orders') // 200)) AS opened_at,
    CASE WHEN u(n, 'closed') < 0.96 THEN opened_at + to_minutes((u(n, 'took') * u(n, 'took') * 9000)::INTEGER) END AS closed_at,
    {'customer_id': 1 + (u(n, 'who') * (getvariable('customers') * 3 // 5))::BIGINT, 'language': pick(['pt', 'es', 'fr', 'de', 'en'], n, 'language')} AS customer,
    pick(['delivery', 'delivery', 'refund', 'damaged', 'invoice', 'question'], n, 'topic') AS topic,
    list_distinct([pick(['vip', 'late', 'repeat', 'phone', 'email'], n, t) FOR t IN ['a', 'b']]).list_sort() AS tags,
    CASE WHEN closed_at IS NOT NULL AND u(n, 'rated') < 0.5 THEN 1 + (hash(n, 'rating') % 5)::INTEGER END AS rating
FROM range(0, getvariable('orders') // 200) AS r(n)
ORDER BY n;

-- An hour in the shop: orders come, are paid and cancelled, and a customer moves.
BEGIN;
INSERT INTO orders (customer_id, amount) SELECT 1 + i % 200, 20 FROM generate_series(1, 100) i;
UPDATE orders SET status = 'paid', changed_at = now() WHERE status = 'open' AND id <= 300;
COMMIT;

DELETE FROM orders WHERE id BETWEEN 4990 AND 4999;

UPDATE customers SET country = 'BR', tags = tags || '{moved}' WHERE id = 7;

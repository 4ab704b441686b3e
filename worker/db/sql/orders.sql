-- name: place
-- Place many orders. Answers every given row in order: the order's id and total, or why there is none.
-- The lateral look-ups use the unique indexes whatever the planner believes of tables that grow this fast.
-- $1 job_id text[], $2 user_id bigint[], $3 username text[], $4 product_id bigint[], $5 sku text[],
-- $6 quantity integer[], $7 total_price numeric[], $8 status text[]
WITH given AS (
    SELECT g.job_id, g.quantity, g.status, g.position,
           u.id AS user_id,
           p.id AS product_id,
           coalesce(g.total_price, p.price * g.quantity) AS total_price,
           CASE WHEN u.id IS NULL THEN 'unknown_user'
                WHEN p.id IS NULL THEN 'unknown_product'
                WHEN NOT u.is_active THEN 'inactive_user'
                WHEN NOT p.in_stock THEN 'out_of_stock'
           END AS refusal
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::integer[], $7::numeric[], $8::text[])
        WITH ORDINALITY AS g (job_id, user_id, username, product_id, sku, quantity, total_price, status, position)
    LEFT JOIN LATERAL (
        SELECT id, is_active FROM users WHERE id = g.user_id
        UNION ALL
        SELECT id, is_active FROM users WHERE username = g.username
    ) AS u ON true
    LEFT JOIN LATERAL (
        SELECT id, price, in_stock FROM products WHERE id = g.product_id
        UNION ALL
        SELECT id, price, in_stock FROM products WHERE sku = g.sku
    ) AS p ON true
), placed AS (
    INSERT INTO orders (job_id, user_id, product_id, quantity, total_price, status)
    SELECT job_id, user_id, product_id, quantity, total_price, status
    FROM given WHERE refusal IS NULL ORDER BY position
    RETURNING id, job_id, total_price
)
SELECT placed.id, placed.total_price, given.refusal
FROM given LEFT JOIN placed USING (job_id)
ORDER BY given.position

-- name: of_user
-- A user's orders with the products' details, newest first, from before one of them.
-- $1 user_id bigint, $2 before_id bigint, $3 limit bigint
SELECT orders.*, products.sku, products.name AS product_name, products.price, products.category
FROM orders JOIN products ON products.id = orders.product_id
WHERE orders.user_id = $1 AND orders.id < $2
ORDER BY orders.id DESC
LIMIT $3

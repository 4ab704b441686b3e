-- name: place
-- Place many orders. Returns for each given row, in order, the order's id and total, or the reason for refusing it.
-- The lateral joins force look-ups in the unique indexes, whatever statistics the planner has of fast-growing tables.
-- $1 rows: job_id, user_id or null, username or null, product_id or null, sku or null, quantity, total_price or null,
--    status
WITH asked AS (
    SELECT position, r ->> 0 AS job_id, (r ->> 1)::bigint AS user_id, r ->> 2 AS username,
           (r ->> 3)::bigint AS product_id, r ->> 4 AS sku, (r -> 5)::integer AS quantity,
           (r ->> 6)::numeric AS total_price, r ->> 7 AS status
    FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS g (r, position)
), given AS (
    SELECT g.job_id, g.quantity, g.status, g.position,
           u.id AS user_id,
           p.id AS product_id,
           coalesce(g.total_price, p.price * g.quantity) AS total_price,
           CASE WHEN u.id IS NULL THEN 'unknown_user'
                WHEN p.id IS NULL THEN 'unknown_product'
                WHEN NOT u.is_active THEN 'inactive_user'
                WHEN NOT p.in_stock THEN 'out_of_stock'
           END AS refusal
    FROM asked AS g
    LEFT JOIN LATERAL (
        SELECT id, is_active FROM public.users WHERE id = g.user_id
        UNION ALL
        SELECT id, is_active FROM public.users WHERE username = g.username
    ) AS u ON true
    LEFT JOIN LATERAL (
        SELECT id, price, in_stock FROM public.products WHERE id = g.product_id
        UNION ALL
        SELECT id, price, in_stock FROM public.products WHERE sku = g.sku
    ) AS p ON true
), placed AS (
    INSERT INTO public.orders (job_id, user_id, product_id, quantity, total_price, status)
    SELECT job_id, user_id, product_id, quantity, total_price, status
    FROM given WHERE refusal IS NULL ORDER BY position
    RETURNING id, job_id, total_price
)
SELECT placed.id, placed.total_price, given.refusal
FROM given LEFT JOIN placed USING (job_id)
ORDER BY given.position

-- name: get_by_id
-- An order with the product's details.
-- $1 id bigint
SELECT orders.*, products.sku, products.name AS product_name, products.price, products.category
FROM public.orders JOIN public.products ON products.id = orders.product_id
WHERE orders.id = $1

-- name: newest
-- Orders with the products' details, the newest first, beginning before $1.
-- $1 before_id bigint, $2 limit bigint
SELECT orders.*, products.sku, products.name AS product_name, products.price, products.category
FROM public.orders JOIN public.products ON products.id = orders.product_id
WHERE orders.id < $1
ORDER BY orders.id DESC
LIMIT $2

-- name: of_user
-- A user's orders with the products' details, the newest first, beginning before $2.
-- $1 user_id bigint, $2 before_id bigint, $3 limit bigint
SELECT orders.*, products.sku, products.name AS product_name, products.price, products.category
FROM public.orders JOIN public.products ON products.id = orders.product_id
WHERE orders.user_id = $1 AND orders.id < $2
ORDER BY orders.id DESC
LIMIT $3

-- name: create
-- Insert many products, except those whose sku exists; products without a sku never conflict.
-- Returns for each given row, in order, the new id or null.
-- $1 rows: sku, name, description, price, category, in_stock
WITH given AS (
    SELECT nextval('public.products_id_seq') AS id, position,
           r ->> 0 AS sku, r ->> 1 AS name, r ->> 2 AS description, (r ->> 3)::numeric AS price,
           r ->> 4 AS category, (r -> 5)::boolean AS in_stock
    FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS g (r, position)
), created AS (
    INSERT INTO public.products (id, sku, name, description, price, category, in_stock)
    OVERRIDING SYSTEM VALUE
    SELECT id, sku, name, description, price, category, in_stock FROM given ORDER BY sku, position
    ON CONFLICT DO NOTHING
    RETURNING id
)
SELECT created.id FROM given LEFT JOIN created USING (id) ORDER BY given.position

-- name: taken
-- Which of these skus exist. It is a separate statement after the insert, so that it sees what others have committed.
-- $1 sku text[]
SELECT found.sku
FROM (SELECT DISTINCT unnest($1::text[]) AS sku) AS asked
CROSS JOIN LATERAL (SELECT sku FROM public.products WHERE sku = asked.sku OFFSET 0) AS found

-- name: set_stock
-- Set the stock of many products; of several jobs for one product the last one counts.
-- Returns for each given row, in order, the id of the changed product or null, and the id of the product that it names.
-- Rows are locked in the order of their ids.
-- $1 rows: id or null, sku or null, in_stock
WITH given AS (
    SELECT found.id, (r -> 2)::boolean AS in_stock, position
    FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS g (r, position)
    LEFT JOIN LATERAL (
        SELECT id FROM public.products WHERE id = (r ->> 0)::bigint
        UNION ALL
        SELECT id FROM public.products WHERE sku = r ->> 1
    ) AS found ON true
), locked AS (
    SELECT id FROM public.products WHERE id IN (SELECT id FROM given) ORDER BY id FOR NO KEY UPDATE
), last AS (
    SELECT DISTINCT ON (id) id, in_stock FROM given JOIN locked USING (id) ORDER BY id, position DESC
), changed AS (
    UPDATE public.products SET in_stock = last.in_stock FROM last WHERE products.id = last.id RETURNING products.id
)
SELECT changed.id, given.id AS found FROM given LEFT JOIN changed USING (id) ORDER BY given.position

-- name: get_by_id
-- $1 id bigint
SELECT * FROM public.products WHERE id = $1

-- name: list_page
-- Products in the order of their ids, beginning after $1, until their descriptions together have $3 bytes.
-- $1 after_id bigint, $2 limit bigint, $3 max_bytes bigint
SELECT id, sku, name, description, price, category, in_stock, created_at
FROM (
    SELECT *, sum(octet_length(description)) OVER (ORDER BY id) AS bytes
    FROM (SELECT * FROM public.products WHERE id > $1 ORDER BY id LIMIT $2) AS page
) AS page
WHERE bytes - octet_length(description) < $3
ORDER BY id

-- name: by_category
-- The products of a category in the order of their ids, beginning after $2, until their descriptions together have $4
-- bytes.
-- $1 category text, $2 after_id bigint, $3 limit bigint, $4 max_bytes bigint
SELECT id, sku, name, description, price, category, in_stock, created_at
FROM (
    SELECT *, sum(octet_length(description)) OVER (ORDER BY id) AS bytes
    FROM (SELECT * FROM public.products WHERE category = $1 AND id > $2 ORDER BY id LIMIT $3) AS page
) AS page
WHERE bytes - octet_length(description) < $4
ORDER BY id

-- The service's tables. Each constraint states what the code assumes; each index names the query it serves.
-- numeric has a NaN that is equal to itself and greater than every number, hence "price < 'NaN'".

CREATE TABLE public.users (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,      -- users.get_by_id, users.list_page
    username   varchar(50) NOT NULL CHECK (username <> ''),
    email      varchar(255) NOT NULL CHECK (email <> ''),
    full_name  varchar(255) NOT NULL CHECK (full_name <> ''),
    is_active  boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_username_key UNIQUE (username),                 -- users.get_by_username, orders.place
    CONSTRAINT users_email_key UNIQUE (email)                        -- users.get_by_email
);

CREATE TABLE public.products (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku         varchar(64) CHECK (sku <> ''),                       -- absent: a product without a key of its own
    name        varchar(255) NOT NULL CHECK (name <> ''),
    description text NOT NULL DEFAULT '',
    price       numeric(10, 2) NOT NULL CHECK (price >= 0 AND price < 'NaN'),
    category    varchar(100) NOT NULL CHECK (category <> ''),
    in_stock    boolean NOT NULL DEFAULT true,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT products_sku_key UNIQUE (sku)                         -- orders.place
);
CREATE INDEX products_category_idx ON public.products (category, id);      -- products.by_category

CREATE TABLE public.orders (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id      text COLLATE "C" CONSTRAINT orders_job_id_key UNIQUE, -- a second guard, behind the ledger
    user_id     bigint NOT NULL CONSTRAINT orders_user_id_fkey REFERENCES public.users,
    product_id  bigint NOT NULL CONSTRAINT orders_product_id_fkey REFERENCES public.products,
    quantity    integer NOT NULL CHECK (quantity > 0),
    total_price numeric(20, 2) NOT NULL CHECK (total_price >= 0 AND total_price < 'NaN'),
    status      varchar(50) NOT NULL DEFAULT 'pending' CHECK (status <> ''),
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX orders_user_id_idx ON public.orders (user_id, id);            -- orders.of_user

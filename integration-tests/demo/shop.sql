-- A small shop. Every kind of key, and some of every type.
CREATE TYPE order_state AS ENUM ('new', 'paid', 'shipped', 'returned');

CREATE TABLE customers (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL,
    email       varchar(200) NOT NULL UNIQUE,
    born        date,
    vip         boolean NOT NULL,
    preferences jsonb,
    created_at  timestamptz NOT NULL
);

CREATE TABLE products (
    sku         uuid PRIMARY KEY,
    title       text NOT NULL,
    price       numeric(10, 2) NOT NULL,
    weight_kg   double precision,
    tags        text[] NOT NULL,
    picture     bytea,
    description text
);

CREATE TABLE price_list (
    sku         uuid PRIMARY KEY,
    price       numeric(10, 2) NOT NULL
);

CREATE TABLE orders (
    id          bigint PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers,
    state       order_state NOT NULL,
    placed_at   timestamp NOT NULL,
    note        text
);

CREATE TABLE order_lines (
    order_id    bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
    line        smallint NOT NULL,
    sku         uuid NOT NULL REFERENCES products,
    quantity    integer NOT NULL,
    discount    real,
    PRIMARY KEY (order_id, line)
);

INSERT INTO customers (name, email, born, vip, preferences, created_at)
SELECT 'Customer ' || i, 'customer' || i || '@example.com', date '1950-01-01' + (i * 37) % 20000, i % 50 = 0,
       jsonb_build_object('newsletter', i % 2 = 0, 'language', (ARRAY['en', 'de', 'fr'])[i % 3 + 1]),
       timestamptz '2024-01-01' + i * interval '17 minutes'
FROM generate_series(1, 20000) AS i;

-- Every tenth description is long enough to be stored out of line: an update of the price leaves it out of the stream.
INSERT INTO products
SELECT md5('product' || i)::uuid, 'Product ' || i, (i * 7 % 10000) / 100.0, i / 10.0,
       ARRAY['tag' || i % 7, 'tag' || i % 11], decode(md5(i::text), 'hex'),
       CASE WHEN i % 10 = 0
            THEN (SELECT string_agg(md5(i::text || j), ' ') FROM generate_series(1, 200) AS j)
            ELSE 'Plain product ' || i END
FROM generate_series(1, 5000) AS i;

INSERT INTO price_list SELECT sku, price FROM products;

INSERT INTO orders
SELECT i, 1 + (i * 13) % 20000, (ARRAY['new', 'paid', 'shipped']::order_state[])[i % 3 + 1],
       timestamp '2025-01-01' + i * interval '3 minutes', CASE WHEN i % 4 = 0 THEN 'gift, please wrap' END
FROM generate_series(1, 50000) AS i;

INSERT INTO order_lines
SELECT i, j, md5('product' || 1 + (i * 7 + j * 31) % 5000)::uuid, 1 + (i + j) % 5,
       CASE WHEN (i + j) % 6 = 0 THEN 0.1 END
FROM generate_series(1, 50000) AS i, generate_series(1, 2) AS j;

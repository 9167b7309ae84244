CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer bigint REFERENCES customers,
    total numeric(10, 2),
    placed timestamptz DEFAULT now()
);
INSERT INTO customers (name) SELECT 'customer ' || i FROM generate_series(1, 100) i;
INSERT INTO orders (customer, total) SELECT 1 + i % 100, i / 7.0 FROM generate_series(1, 10000) i;

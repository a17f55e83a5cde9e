/*
kind = "append"
description = "One row an order, with its amount"
*/
SELECT order_id, customer, product, quantity, price, quantity * price AS amount, ordered_at
FROM staging.orders

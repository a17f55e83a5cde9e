/*
kind = "view"
description = "Orders and revenue of each day"
*/
SELECT CAST(ordered_at AS date) AS day, count(*) AS orders, sum(amount) AS revenue
FROM core.orders
GROUP BY ALL
ORDER BY day

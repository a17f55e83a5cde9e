/*
kind = "summary"
description = "Flights and distance of each route and month (UTC)"
*/
SELECT
    origin,
    dest,
    CAST(date_trunc('month', time_hour) AS date) AS month,
    count(*) AS flights,
    count(DISTINCT carrier) AS carriers,
    sum(distance) AS miles,
    arg_max(flight, arr_delay) AS latest_flight,
    avg(arr_delay) AS mean_arr_delay
FROM core.flight
GROUP BY ALL

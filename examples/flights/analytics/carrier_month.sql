/*
kind = "view"
description = "Flights, cancellations and delays of each carrier and month"
*/
SELECT
    carrier,
    carrier_name,
    CAST(date_trunc('month', time_hour) AS date) AS month,
    count(*) AS flights,
    count_if(cancelled) AS cancelled,
    avg(dep_delay) AS mean_dep_delay,
    avg(arr_delay) AS mean_arr_delay
FROM analytics.flight_overview
GROUP BY ALL

/*
kind = "view"
description = "Routes by number of flights"
*/
SELECT
    origin,
    dest,
    max(dest_name) AS dest_name,
    max(distance) AS distance,
    count(*) AS flights,
    avg(arr_delay) AS mean_arr_delay,
    count(DISTINCT carrier) AS carriers
FROM analytics.flight_overview
GROUP BY origin, dest

/*
kind = "summary"
description = "Flights, cancellations and delays of each carrier and day (UTC), kept right while flights come late or are corrected"
*/
SELECT
    carrier,
    CAST(time_hour AS date) AS day,
    count(*) AS flights,
    count_if(cancelled) AS cancelled,
    avg(dep_delay) AS mean_dep_delay,
    max(dep_delay) AS worst_dep_delay
FROM core.flight
GROUP BY carrier, day

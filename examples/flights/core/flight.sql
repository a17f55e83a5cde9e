/*
kind = "upsert"
description = "One row a flight, with its times in UTC"
*/
SELECT
    carrier,
    flight,
    tailnum,
    origin,
    dest,
    time_hour,
    time_hour + to_minutes(minute) AS scheduled_at,
    scheduled_at + to_minutes(dep_delay) AS departed_at,
    dep_time,
    sched_dep_time,
    dep_delay,
    arr_time,
    sched_arr_time,
    arr_delay,
    air_time,
    distance,
    dep_time IS NULL AS cancelled
FROM staging.flights

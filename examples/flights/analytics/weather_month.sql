/*
kind = "summary"
description = "The weather of each airport and month (UTC): partial states, combined as rows come"
*/
SELECT
    origin,
    date_trunc('month', time_hour)::date AS month,
    count(*) AS hours,
    avg(temperature_f) AS mean_temperature_f,
    min(temperature_f) AS min_temperature_f,
    max(temperature_f) AS max_temperature_f,
    stddev_samp(temperature_f) AS stddev_temperature_f,
    arg_max(time_hour, wind_gust) AS windiest_hour
FROM core.weather
GROUP BY origin, month

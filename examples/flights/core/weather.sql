/*
kind = "append"
description = "Hourly weather at an airport"
*/
SELECT
    origin,
    time_hour,
    temp AS temperature_f,
    dewp AS dew_point_f,
    humid AS humidity,
    wind_dir,
    wind_speed,
    wind_gust,
    precip AS precipitation,
    pressure,
    visib AS visibility
FROM staging.weather

/*
kind = "upsert"
description = "Airports by FAA code"
*/
SELECT faa, name, lat AS latitude, lon AS longitude, alt AS altitude_ft, tzone AS time_zone
FROM staging.airports

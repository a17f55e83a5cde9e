/*
kind = "view"
description = "Every flight with its plane, carrier, airports and the weather at its departure"
*/
SELECT
    flight.*,
    airline.name AS carrier_name,
    plane.manufacturer,
    plane.model,
    plane.built,
    plane.seats,
    departure.name AS origin_name,
    destination.name AS dest_name,
    destination.latitude AS dest_latitude,
    destination.longitude AS dest_longitude,
    weather.temperature_f,
    weather.wind_speed,
    weather.precipitation,
    weather.visibility
FROM core.flight AS flight
LEFT JOIN core.airline AS airline ON airline.carrier = flight.carrier
LEFT JOIN core.plane AS plane ON plane.tailnum = flight.tailnum
LEFT JOIN core.airport AS departure ON departure.faa = flight.origin
LEFT JOIN core.airport AS destination ON destination.faa = flight.dest
LEFT JOIN core.weather AS weather ON weather.origin = flight.origin AND weather.time_hour = flight.time_hour

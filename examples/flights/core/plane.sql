/*
kind = "upsert"
description = "Planes by tail number"
*/
SELECT tailnum, year AS built, type, manufacturer, model, engines, seats, speed, engine
FROM staging.planes

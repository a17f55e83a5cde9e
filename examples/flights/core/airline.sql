/*
kind = "upsert"
description = "Carriers"
*/
SELECT carrier, name
FROM staging.airlines

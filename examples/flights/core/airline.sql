/*
kind = "append"
description = "Carriers"
*/
SELECT carrier, name
FROM staging.airlines

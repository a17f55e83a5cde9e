"""From a row back to the events that made it."""

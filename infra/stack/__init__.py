"""The local stack: one Kafka broker (KRaft) and one PostgreSQL, started from packages alone, without Docker or a system Java."""

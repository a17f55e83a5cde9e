"""The mirror: runs, catalogues, commits, loads, and views that spread out their JSON."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE kappa.runs (
    warehouse   text NOT NULL,
    host        text NOT NULL,
    pid         bigint NOT NULL,
    started_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    status      text,
    error       text,
    PRIMARY KEY (warehouse, host, pid, started_at)
);
CREATE TABLE kappa.catalogues (
    warehouse   text NOT NULL,
    n           bigint NOT NULL,
    created_at  timestamptz NOT NULL,
    created_by  text,
    content     jsonb NOT NULL,
    PRIMARY KEY (warehouse, n)
);
CREATE TABLE kappa.commits (
    warehouse    text NOT NULL,
    table_name   text NOT NULL,
    generation   text NOT NULL,
    version      bigint NOT NULL,
    commit_id    text,
    epoch        bigint,
    host         text,
    pid          bigint,
    started_at   timestamptz,
    committed_at timestamptz NOT NULL,
    files        bigint NOT NULL,
    rows         bigint NOT NULL,
    bytes        bigint NOT NULL,
    metadata     jsonb,
    PRIMARY KEY (warehouse, table_name, generation, version)
);
CREATE INDEX commits_committed_at ON kappa.commits (committed_at);
CREATE TABLE kappa.loads (
    warehouse   text NOT NULL,
    load_id     text NOT NULL,
    source      text NOT NULL,
    uri         text NOT NULL,
    sha256      text,
    rows        bigint,
    bytes       bigint,
    done        boolean,
    replaced_by text,
    updated_at  timestamptz,
    PRIMARY KEY (warehouse, load_id)
);
"""

VIEWS = """
CREATE VIEW kappa.live_tables AS
SELECT c.warehouse, t.key AS table_name, t.value->>'kind' AS kind, t.value->>'generation' AS generation, t.value->>'path' AS path, c.n
FROM kappa.catalogues c CROSS JOIN LATERAL jsonb_each(c.content->'tables') t
WHERE c.n = (SELECT max(newest.n) FROM kappa.catalogues newest WHERE newest.warehouse = c.warehouse);

CREATE VIEW kappa.commit_ranges AS
SELECT c.warehouse, c.table_name, c.generation, c.version, c.commit_id, c.committed_at,
       split_part(r.key, '/', 1) AS topic, split_part(r.key, '/', 2)::int AS partition,
       (r.value->>'from')::bigint AS from_offset, (r.value->>'to')::bigint AS to_offset,
       (r.value->>'read')::bigint AS read, (r.value->>'written')::bigint AS written,
       (r.value->>'filtered')::bigint AS filtered, (r.value->>'rejected')::bigint AS rejected
FROM kappa.commits c CROSS JOIN LATERAL jsonb_each(c.metadata->'ranges') r;

CREATE VIEW kappa.totals AS
SELECT c.warehouse, c.table_name, c.generation, c.version, c.commit_id, c.committed_at,
       split_part(t.key, '/', 1) AS topic, split_part(t.key, '/', 2)::int AS partition,
       (t.value->>'from')::bigint AS from_offset, (t.value->>'to')::bigint AS to_offset,
       (t.value->>'read')::bigint AS read, (t.value->>'written')::bigint AS written,
       (t.value->>'filtered')::bigint AS filtered, (t.value->>'rejected')::bigint AS rejected
FROM (
    SELECT DISTINCT ON (warehouse, table_name, generation) * FROM kappa.commits WHERE metadata ? 'totals'
    ORDER BY warehouse, table_name, generation, version DESC
) c CROSS JOIN LATERAL jsonb_each(c.metadata->'totals') t;
"""


def upgrade() -> None:
    """Make everything."""
    op.execute(TABLES)
    op.execute(VIEWS)

-- What worker processes agree on through the database: how long rows are kept, and whose turn a task is.
-- older processes: go on

-- What the processes that prune want: of each kind the longest wish of the last seven days counts.
CREATE TABLE {schema}.retention (
    kind         text NOT NULL,                                      -- results, snapshots
    days         double precision NOT NULL,
    wanted_at    timestamptz NOT NULL,                               -- when a process last ran with this setting
    PRIMARY KEY (kind, days)
);

-- One row for each task that one process does at a time: it locks the row, which only a role that writes can.
CREATE TABLE {schema}.turns (
    task         text PRIMARY KEY
);
INSERT INTO {schema}.turns (task) VALUES ('advice'), ('thinning');

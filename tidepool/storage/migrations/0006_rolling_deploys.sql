-- Processes of several versions beside each other: what a newer migration means to an older process, how long rows are
-- kept when workers are set differently, and whose turn it is to do what one process at a time does.
-- older processes: go on

ALTER TABLE schema_migrations ADD COLUMN breaks_older boolean NOT NULL DEFAULT false;

-- What the processes that prune want: of each kind the longest wish of the last seven days counts.
CREATE TABLE retention (
    kind         text NOT NULL,                                      -- results, snapshots
    days         double precision NOT NULL,
    wanted_at    timestamptz NOT NULL,                               -- when a process last ran with this setting
    PRIMARY KEY (kind, days)
);

-- One row for each task that one process does at a time: it locks the row, which only a role that writes can.
CREATE TABLE turns (
    task         text PRIMARY KEY
);
INSERT INTO turns (task) VALUES ('advice'), ('thinning');

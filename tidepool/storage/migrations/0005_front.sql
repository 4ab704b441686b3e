-- For readers that go through a million outcomes by HTTP. What is asked for there and not named here is served by the
-- indexes that there are: pages by finished_at, products by category, orders by user.

-- Ids in the order of their bytes, whatever the database's locale: only so does the key find those that begin alike
-- (result_pages.by_id), and requeue its next chunk. Comparing bytes is also less work for whoever writes a row.
ALTER TABLE job_results ALTER COLUMN job_id TYPE text COLLATE "C";
ALTER TABLE orders ALTER COLUMN job_id TYPE text COLLATE "C";

-- snapshots.peak, of seven days: without the column in the index it reads all of the table, 0.25 s with ten processes.
DROP INDEX pool_snapshots_tick_idx;
CREATE INDEX pool_snapshots_tick_idx ON pool_snapshots (tick) INCLUDE (in_use_max);

"""Deliberate faults, each with the test that must notice it. `python -m tests.mutations` tries them.

A mutation replaces one exact text by another. A unit test keeps every text where it is said to be, so that the list
goes with the code. A new safeguard belongs here, with the test that shows what it is for.
"""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutation:
    """*what* a reader would call it; *old* in the file at *path* becomes *new*, and *test* must turn red."""

    what: str
    path: str
    old: str
    new: str
    test: str

    def applied_to(self, text: str) -> str:
        """Return *text* with the fault in it. Raises `ValueError` unless *old* is found exactly once."""
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.path}: found {found} times: {self.old!r}")
        return text.replace(self.old, self.new)


LEDGER, FAULTS = "tests/integration/test_ledger.py", "tests/integration/test_ledger_faults.py"
LEASES, POISON = "tests/integration/test_leases.py", "tests/integration/test_poison.py"
ONE_POISON = f"{POISON}::test_poison_has_its_outcome_and_harms_nobody"
GUARD, COMMANDS = "tests/integration/test_front_guard.py", "tests/integration/test_front_commands.py"
CALLERS, BOUNDED = "tests/integration/test_front_callers.py", "tests/integration/test_bounded_http.py"
BENCH, ARENA = "tests/integration/test_bench.py", "tests/integration/test_drill_arena.py"
DEADLOCKS = "tests/integration/test_deadlocks.py::test_two_batches_in_opposite_orders_do_not_deadlock"
SOURCE = "tests/unit/test_source.py"
ODD = "tests/integration/test_odd_redis.py"
GRANTS, ISOLATION = "tests/integration/test_grants.py", "tests/integration/test_isolation.py"
RETENTION, ROLLING = "tests/integration/test_retention.py", "tests/integration/test_rolling_deploy.py"

LOG_QUEUE, LOGS = "tests/unit/test_log_queue.py", "tests/unit/test_logs.py"

MUTATIONS = [
    # ---------------------------------------------------------------- log lines
    Mutation(
        "no bound on waiting log lines",
        "tidepool/log_queue.py",
        "if self._is_closed or self._dropped or is_full:",
        "if self._is_closed or self._dropped:",
        f"{LOG_QUEUE}::test_a_pipe_that_nobody_reads_drops_the_newest_and_counts",
    ),
    Mutation(
        "the end waits for the log's reader",
        "tidepool/log_queue.py",
        "self._thread.join(wait_s)",
        "self._thread.join(30)",
        f"{LOG_QUEUE}::test_an_end_does_not_wait_for_a_reader",
    ),
    Mutation(
        "a failed write ends the log's thread",
        "tidepool/log_queue.py",
        "        except OSError:\n            self._is_torn",
        "        except BlockingIOError:\n            self._is_torn",
        f"{LOG_QUEUE}::test_a_full_disk_is_reported_when_there_is_room_again",
    ),
    Mutation(
        "every repeated error has its traceback",
        "tidepool/logs.py",
        "place is None or self._now_s() < place.until_s",
        "place is None",
        f"{LOGS}::test_a_traceback_is_logged_once_a_minute_for_each_function_and_place",
    ),
    Mutation(
        "a blocked loop keeps its lease for ever",
        "tidepool/queue/renewal.py",
        "< LONGEST_BLOCK_S",
        "< 1e9",
        f"{LEASES}::test_a_blocked_loop_keeps_its_lease_for_as_long_as_is_documented",
    ),
    # ---------------------------------------------------------------- the ledger
    Mutation(
        "no check that the ledger took every row",
        "tidepool/ledger/ledger.py",
        "if count < len(entries):",
        "if count < 0:",
        f"{LEDGER}::test_a_redelivered_job_gets_its_stored_outcome",
    ),
    Mutation(
        "no look-up of stored outcomes",
        "tidepool/ledger/ledger.py",
        "repositories.results.lookup([job.id for job in batch]) if look_up else {}",
        "repositories.results.lookup([]) if look_up else {}",
        f"{LEDGER}::test_new_and_redelivered_jobs_share_a_batch",
    ),
    Mutation(
        "a stored outcome is overwritten",
        "tidepool/storage/sql/results.sql",
        "WHERE job_results.requeued_at IS NOT NULL",
        "WHERE true",
        f"{LEDGER}::test_a_redelivered_job_gets_its_stored_outcome",
    ),
    Mutation(
        "a requeued job's old outcome still counts",
        "tidepool/storage/sql/results.sql",
        "SELECT job_id, status, result, reason, error\n"
        "FROM job_results\n"
        "WHERE job_id = ANY ($1::text[]) AND requeued_at IS NULL",
        "SELECT job_id, status, result, reason, error\nFROM job_results\nWHERE job_id = ANY ($1::text[])",
        "tests/integration/test_requeue.py::test_a_marked_row_is_no_outcome_any_more",
    ),
    Mutation(
        "an applied job is requeued",
        "tidepool/storage/sql/results.sql",
        "WHERE status <> 'applied' AND args IS NOT NULL",
        "WHERE args IS NOT NULL OR status = 'applied'",
        "tests/integration/test_requeue.py::test_applied_jobs_are_never_taken_back",
    ),
    Mutation(
        "the ledger's row outside of the effect's transaction",
        "tidepool/ledger/ledger.py",
        "                    await self._write(function, entries, repositories, db_us, write_us)\n",
        "                    async with self._pool.transaction() as other:\n"
        "                        await self._write(function, entries, Repositories(other), db_us, write_us)\n",
        f"{FAULTS}::test_an_effect_whose_row_cannot_be_written_is_rolled_back",
    ),
    Mutation(
        "the COMMIT counts nowhere",
        "tidepool/ledger/ledger.py",
        "db_us = (write_ns - begun_ns) // 1000 + write_us",
        "db_us = (write_ns - begun_ns) // 1000",
        "tests/integration/test_ledger.py::test_a_row_has_the_commit_of_the_batch_before",
    ),
    Mutation(
        "no transaction at all",
        "tidepool/pool/pool.py",
        "await connection.execute(self._connections.begin)",
        'await connection.execute("SELECT 1")',
        "tests/integration/test_pool.py::test_a_transaction_commits_or_rolls_back",
    ),
    Mutation(
        "a failed batch is not split",
        "tidepool/ledger/ledger.py",
        "                parts = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]\n",
        "                return [await self._settle_alone(delivery, error) for delivery in batch]\n",
        f"{FAULTS}::test_one_jobs_data_does_not_change_the_others_outcomes",
    ),
    Mutation(
        "a job's own fault is tried again without end",
        "tidepool/ledger/ledger.py",
        "decided = Failed(text) if delivery.last_try else",
        "decided = Failed(text) if False else",
        f"{FAULTS}::test_a_job_whose_code_raises_on_its_last_try_has_failed",
    ),
    Mutation(
        "an outage of PostgreSQL is the job's fault",
        "tidepool/ledger/ledger.py",
        "            except (Unavailable, Refused) as fault:\n",
        "            except (Unavailable, Refused) as fault:\n                raise\n",
        f"{FAULTS}::test_a_server_that_is_away_or_refuses_us_is_waited_for",
    ),
    Mutation(
        "a grant that a handler lacks stops the whole worker",
        "tidepool/ledger/ledger.py",
        'raise HandlerError(f"PostgreSQL refuses its statement: {fault}") from None',
        "raise",
        f"{GRANTS}::test_what_a_handler_may_not_do_is_its_job_types_failure",
    ),
    Mutation(
        "a grant that the ledger lacks is the jobs' failure",
        "tidepool/ledger/ledger.py",
        "            if committing:  #",
        "            if True:  #",
        f"{GRANTS}::test_what_the_ledger_may_not_do_is_waited_for",
    ),
    Mutation(
        "a refused commit stops the whole worker",
        "tidepool/ledger/ledger.py",
        "            if committing:  #",
        "            if False:  #",
        f"{GRANTS}::test_a_commit_that_is_refused_is_its_job_types_failure",
    ),
    Mutation(
        "the shortest retention prunes everybody's rows",
        "tidepool/storage/sql/retention.sql",
        "SELECT kind, max(days)",
        "SELECT kind, min(days)",
        f"{RETENTION}::test_the_longest_retention_wins",
    ),
    Mutation(
        "a job of a newer version is rejected at once",
        "tidepool/engine/intake.py",
        'if now - since >= self._leave_s or call.get("burst"):',
        "if True:",
        f"{ROLLING}::test_an_old_worker_leaves_what_it_does_not_know_to_a_new_one",
    ),
    Mutation(
        "a read that conflicts is not repeated",
        "tidepool/pool/connections.py",
        "            except _CONFLICTS:\n",
        "            except _CONFLICTS[:0]:\n",
        f"{ISOLATION}::test_a_read_that_conflicts_is_repeated",
    ),
    Mutation(
        "a commit that conflicts is repeated, which succeeds without the transaction",
        "tidepool/pool/connections.py",
        "        if self.is_in_transaction():\n            return",
        "        if self.is_in_transaction() and args[0] != COMMIT:\n            return",
        f"{ISOLATION}::test_a_commit_that_conflicts_is_no_commit",
    ),
    Mutation(
        "a transaction has the database's isolation",
        "tidepool/pool/connections.py",
        '_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"',
        '_BEGIN = "BEGIN"',
        f"{ISOLATION}::test_writes_have_the_isolation_that_they_are_written_for",
    ),
    Mutation(
        "an error's text is stored as it is",
        "tidepool/ledger/ledger.py",
        '.replace("\\x00", "\\\\x00")',
        "",
        f"{FAULTS}::test_an_errors_text_never_breaks_its_row",
    ),
    Mutation(
        "content with NUL is kept",
        "tidepool/ledger/ledger.py",
        "size > MAX_KEPT_BYTES or _ESCAPED_NUL.search(text)",
        "size > MAX_KEPT_BYTES",
        f"{ONE_POISON}[P9 NUL in text]",
    ),
    Mutation(
        "an order does not look again for its user",
        "tidepool/ledger/ledger.py",
        "if not delivery.looked_again:",
        "if False:",
        f"{LEDGER}::test_an_unknown_reference_is_looked_up_again_at_once",
    ),
    # ---------------------------------------------------------------- batches
    Mutation(
        "users are inserted as they come",
        "worker/tables/sql/users.sql",
        "FROM given ORDER BY username, position",
        "FROM given ORDER BY position",
        f"{DEADLOCKS}[create_users-None]",
    ),
    Mutation(
        "products are inserted as they come",
        "worker/tables/sql/products.sql",
        "FROM given ORDER BY sku, position",
        "FROM given ORDER BY position",
        f"{DEADLOCKS}[create_products-None]",
    ),
    Mutation(
        "the ledger's rows are inserted as they come",
        "tidepool/storage/sql/results.sql",
        "FROM jsonb_array_elements($1::jsonb) AS g (r)\nORDER BY job_id\n",
        "FROM jsonb_array_elements($1::jsonb) AS g (r)\n",
        f"{DEADLOCKS}[write_rows-None]",
    ),
    Mutation(
        "a job that is here already runs twice",
        "tidepool/ledger/batcher.py",
        "if len(self._answers[delivery.id]) == 1:",
        "if self._answers[delivery.id]:",
        "tests/unit/test_batcher.py::test_a_job_that_came_back_under_way_is_not_run_twice",
    ),
    # ---------------------------------------------------------------- claims, leases, finishes
    Mutation(
        "a job is acknowledged before its commit",
        "tidepool/engine/intake.py",
        "            outcome = await self._submit(self._delivery(function, call, command, content))\n",
        "            submitted = self._submit(self._delivery(function, call, command, content))\n"
        "            self.task = __import__('asyncio').ensure_future(submitted)\n"
        "            outcome = Applied({})\n",
        "tests/integration/test_acknowledging.py",
    ),
    Mutation(
        "anybody may finish a job",
        "tidepool/queue/lua/finish.lua",
        "    if dues[i] then\n",
        "    if dues[i] or how == 'done' then\n",
        f"{LEASES}::test_an_owner_that_lost_its_lease_can_finish_nothing",
    ),
    Mutation(
        "a job that somebody runs is claimed all the same",
        "tidepool/queue/lua/claim.lua",
        "owner, 'PX', mark_ms, 'NX')",
        "owner, 'PX', mark_ms)",
        f"{LEASES}::test_jobs_that_stock_workers_run_are_paged_past",
    ),
    Mutation(
        "a server that is back with an error counts as away",
        "tidepool/ledger/ledger.py",
        "            except Exception as error:\n                self._answered()\n",
        "            except Exception as error:\n",
        "tests/integration/test_ledger_faults.py::test_a_server_that_is_back_with_an_error_is_back",
    ),
    Mutation(
        "a batch that goes on for ever keeps its worker from ending",
        "tidepool/ledger/batcher.py",
        "            for task in late:\n                task.cancel()\n",
        "            del late\n",
        "tests/unit/test_batcher.py::test_closing_does_not_wait_for_ever",
    ),
    Mutation(
        "a job that does not heed its stop keeps its worker from ending",
        "tidepool/engine/worker.py",
        "            for task in late:\n                task.cancel()\n",
        "            del late\n",
        "tests/integration/test_engine_recovery.py::test_a_job_that_does_not_heed_its_stop_is_told_again",
    ),
    Mutation(
        "a claim that reaches Redis late is never found",
        "tidepool/queue/holding.py",
        "now_s + _LOOK_AGAIN_S if now_s < self._doubtful_until_s else math.inf",
        "math.inf",
        "tests/integration/test_holding.py::test_a_claim_that_reaches_redis_late_is_found",
    ),
    Mutation(
        "an idle worker sleeps on when a lease ends",
        "tidepool/queue/wakeup.py",
        "        return first[0][1] if first else math.inf\n",
        "        return math.inf\n",
        "tests/integration/test_wakeup.py::test_the_wakeup_knows_when_the_next_lease_ends",
    ),
    Mutation(
        "finishes that were refused are forgotten",
        "tidepool/queue/finisher.py",
        "            self._waiting.extendleft(reversed(batch))\n",
        "",
        "tests/integration/test_holding.py::test_a_finish_that_is_refused_is_kept_and_told",
    ),
    Mutation(
        "what was applied is told as failed",
        "tidepool/engine/attempt.py",
        "        if answer is not None:\n",
        '        if error.kind == "invalid":\n',
        "tests/integration/test_acknowledging.py::test_what_was_applied_is_told_as_applied",
    ),
    Mutation(
        "a suspect in somebody's hands has no mark that is kept",
        "tidepool/queue/lua/claim.lua",
        "local skipped, done, page, size = 0, 0, nil, 1",
        "local skipped, done, page, size = 0, #raised, nil, 1",
        f"{LEASES}::test_a_suspect_is_marked_as_any_job_is",
    ),
    Mutation(
        "a job that ran to its end stays a suspect",
        "tidepool/queue/lua/finish.lua",
        "                typed('HDEL', KEYS[4], id) -- it has been run to its end, and killed nobody\n",
        "",
        f"{LEASES}::test_a_job_that_ran_to_its_end_is_no_suspect",
    ),
    Mutation(
        "a job that is held for long loses its marks",
        "tidepool/queue/lua/renew.lua",
        "tonumber(mark_end) < now + 1.5 * lease_ms",
        "tonumber(mark_end) < now",
        f"{LEASES}::test_only_marks_that_are_old_are_renewed",
    ),
    Mutation(
        "a job is due again before its owner's lease has ended",
        "tidepool/queue/lua/claim.lua",
        "local mark_ms = 2 * lease_ms\n",
        "local mark_ms = lease_ms\n",
        f"{LEASES}::test_marks_outlive_the_lease",
    ),
    Mutation(
        "a living owner's jobs are put back",
        "tidepool/queue/lua/claim.lua",
        "redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)",
        "redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '+inf', 'LIMIT', 0, 100)",
        f"{LEASES}::test_a_claimed_job_is_nobody_elses",
    ),
    Mutation(
        "a lost owner's jobs stay lost",
        "tidepool/queue/lua/claim.lua",
        "local count = put_back(lost)",
        "local count = 0",
        f"{LEASES}::test_a_lost_owners_jobs_come_back_to_their_old_places",
    ),
    Mutation(
        "a lease is not renewed",
        "tidepool/queue/lua/renew.lua",
        "redis.call('ZADD', KEYS[2], now + lease_ms, owner)",
        "",
        f"{LEASES}::test_renewing_keeps_every_job_of_the_owner",
    ),
    Mutation(
        "an owner that slept goes on as if nothing were",
        "tidepool/queue/holding.py",
        "            self._number += 1\n",
        "            pass\n",
        "tests/integration/test_engine_recovery.py::test_a_worker_that_lost_its_lease_goes_on_as_a_new_owner",
    ),
    Mutation(
        "a lease once lost is lost with each claim",
        "tidepool/queue/holding.py",
        "        if not self._jobs:\n",
        "        if not known:\n",
        "tests/integration/test_engine_recovery.py::test_a_lease_that_is_lost_is_lost_once",
    ),
    Mutation(
        "a job that kills its workers runs for ever",
        "tidepool/engine/attempt.py",
        "if call.claimed.lapses >= MOST_LAPSES:",
        "if False:",
        "tests/integration/test_engine_recovery.py::test_a_job_that_killed_three_workers_is_failed_and_named",
    ),
    Mutation(
        "a job that a stop interrupts is done",
        "tidepool/engine/attempt.py",
        "if worker.retry_jobs and isinstance(error, (Retry, RetryJob, asyncio.CancelledError)):",
        "if worker.retry_jobs and isinstance(error, (Retry, RetryJob)):",
        "tests/integration/test_engine_behaviour.py::test_a_signal_without_wait_puts_running_jobs_back",
    ),
    Mutation(
        "trouble with Redis ends the worker",
        "tidepool/queue/faults.py",
        "        if not is_trouble(error):\n            raise error\n",
        "        raise error\n",
        "tests/integration/test_engine_recovery.py::test_a_redis_that_is_killed_and_comes_back_ends_no_worker",
    ),
    Mutation(
        "a repeated enqueueing does not know that it went through",
        "tidepool/queue/lua/enqueue.lua",
        "if receipt then\n",
        "if false then\n",
        "tests/unit/test_client.py::test_a_lost_reply_changes_nothing",
    ),
    Mutation(
        "a claim is not bounded in bytes",
        "tidepool/queue/lua/claim.lua",
        "if #ids > 0 and bytes + size > max_bytes then",
        "if false then",
        f"{ODD}::test_a_claim_stops_before_the_job_that_is_too_many_bytes",
    ),
    Mutation(
        "a job that is larger than a claim is never claimed",
        "tidepool/queue/lua/claim.lua",
        "if #ids > 0 and bytes + size > max_bytes then",
        "if bytes + size > max_bytes then",
        f"{ODD}::test_a_claim_stops_before_the_job_that_is_too_many_bytes",
    ),
    Mutation(
        "bytes that were held stay held",
        "tidepool/engine/worker.py",
        "self._held_bytes -= self._sizes.pop(key, 0)",
        "self._sizes.pop(key, 0)",
        f"{ODD}::test_a_job_whose_mark_somebody_deletes_gives_all_its_slots_back",
    ),
    Mutation(
        "held bytes bound nothing",
        "tidepool/engine/worker.py",
        "has_room = self._held_bytes < self.options.max_held_bytes",
        "has_room = True",
        f"{ODD}::test_a_worker_holds_no_more_bytes_than_it_may",
    ),
    Mutation(
        "finishes are not bounded in bytes",
        "tidepool/queue/finisher.py",
        "if size > MOST_BYTES_AT_ONCE:",
        "if False:",
        f"{ODD}::test_finishes_are_sent_4_mib_at_a_time",
    ),
    Mutation(
        "a key of a wrong type stays for ever",
        "tidepool/queue/lua/claim.lua",
        "        redis.call('DEL', key)\n        unusable",
        "        unusable",
        f"{ODD}::test_a_key_of_ours_of_a_wrong_type_is_deleted_and_named_once",
    ),
    Mutation(
        "the cause of an earlier try stays",
        "tidepool/queue/lua/finish.lua",
        "redis.call('DEL', 'arq:cause:' .. id)",
        "redis.call('EXISTS', 'arq:cause:' .. id)",
        f"{LEASES}::test_the_cause_of_the_last_try_is_kept",
    ),
    Mutation(
        "jobs that others settled are remembered for ever",
        "tidepool/engine/intake.py",
        "            del self._seen[oldest]\n",
        "            pass\n",
        "tests/unit/test_newer_jobs.py::test_jobs_that_others_settled_do_not_take_the_place_of_new_ones",
    ),
    Mutation(
        "a foreign mark is copied whole",
        "tidepool/queue/lua/claim.lua",
        "typed('GETRANGE', key, 0, #lost)",
        "typed('GET', key)",
        f"{ODD}::test_no_foreign_value_is_read_whole",
    ),
    Mutation(
        "planted owners stand before one with jobs",
        "tidepool/queue/lua/claim.lua",
        "now, 'LIMIT', 0, 100)",
        "now, 'LIMIT', 0, 2)",
        f"{ODD}::test_thousands_of_planted_owners_do_not_keep_a_lost_ones_jobs",
    ),
    Mutation(
        "a result of any size is read",
        "tidepool/queue/lua/results.lua",
        "length <= max_bytes and",
        "length <= 1e12 and",
        f"{COMMANDS}::test_a_result_that_no_worker_wrote_is_not_read_whole",
    ),
    Mutation(
        "an error ends the loop that waits for outcomes",
        "tidepool/web/waiting.py",
        "except Exception as error:",
        "except ArithmeticError as error:",
        f"{COMMANDS}::test_an_error_of_a_look_does_not_end_the_waits",
    ),
    Mutation(
        "a renewal looks at the first jobs only",
        "tidepool/queue/lua/renew.lua",
        "#held < most and 0 or first_rank + most",
        "0",
        f"{LEASES}::test_a_renewal_looks_at_so_many_jobs_in_turn",
    ),
    Mutation(
        "a mark of another type keeps a job for ever",
        "tidepool/queue/lua/claim.lua",
        "        if typed('STRLEN', mark) then\n",
        "        if true then\n",
        f"{ODD}::test_a_jobs_key_of_a_wrong_type_is_that_jobs_alone",
    ),
    Mutation(
        "an odd count of lapses keeps a lost owner's jobs",
        "tidepool/queue/lua/claim.lua",
        "local lapsed = redis.pcall('HINCRBY', KEYS[4], id, 1)",
        "local lapsed = redis.call('HINCRBY', KEYS[4], id, 1)",
        f"{ODD}::test_a_lost_owners_odd_jobs_do_not_keep_the_others",
    ),
    Mutation(
        "the arguments of large jobs are kept",
        "tidepool/engine/attempt.py",
        "        if self.is_large:\n",
        "        if False:\n",
        f"{ODD}::test_arguments_of_large_jobs_are_not_kept_where_that_is_asked_for",
    ),
    Mutation(
        "an id can look like another job's task",
        "tidepool/engine/worker.py",
        "        key: Any = (claimed.id, claimed.owner)  # no id can be made to look like another job's\n"
        "        while key in tasks:  # its mark was deleted by somebody, or its finish is on the way\n"
        '            key = (*key, "again")\n',
        '        key: Any = claimed.id if claimed.id not in tasks else f"{claimed.id}\\n{claimed.owner}"\n',
        f"{ODD}::test_no_id_looks_like_another_jobs_task",
    ),
    Mutation(
        "an odd error ends a worker",
        "tidepool/engine/worker.py",
        "if self.burst or is_trouble(error) or isinstance(error, ResponseError):",
        "if True:",
        f"{ODD}::test_an_error_of_a_round_does_not_end_the_worker",
    ),
    Mutation(
        "a background task ends by an error",
        "tidepool/periodic.py",
        "            failures.log(error)\n        await",
        "            failures.log(error)\n            return\n        await",
        "tests/unit/test_periodic.py::test_a_task_that_fails_or_returns_goes_on",
    ),
    Mutation(
        "a beat of the future is believed",
        "tidepool/queue/lua/budget.lua",
        "if not age or age < -life_ms then",
        "if not age then",
        "tests/unit/test_budget_forgeries.py::test_entries_that_no_worker_wrote_take_no_share",
    ),
    Mutation(
        "an enqueueing is not bounded in bytes",
        "tidepool/client.py",
        "if size + len(payload) > MOST_BYTES_AT_ONCE and end > start:",
        "if False:",
        "tests/unit/test_client.py::test_large_jobs_are_sent_a_few_at_a_time",
    ),
    # ---------------------------------------------------------------- poison
    Mutation(
        "no limit for a payload in the worker",
        "tidepool/queue/wire.py",
        "if len(payload) > MAX_PAYLOAD_BYTES:",
        "if False:",
        f"{ONE_POISON}[P7 one byte more]",
    ),
    Mutation(
        "an endless payload is read whole",
        "tidepool/queue/lua/claim.lua",
        "if #payload > max_payload then",
        "if false then",
        f"{LEASES}::test_a_payload_that_is_too_large_is_not_read_whole",
    ),
    Mutation(
        "no limit for a payload in the client",
        "tidepool/client.py",
        "if len(payload) > wire.MAX_PAYLOAD_BYTES and not again:",
        "if False:",
        f"{POISON}::test_what_no_worker_could_decode_is_refused_when_it_is_enqueued",
    ),
    Mutation(
        "no limit for a job's fields",
        "tidepool/jobs/job.py",
        "> MOST_FIELDS:",
        "> 2**31:",
        f"{ONE_POISON}[P6 40,000 fields]",
    ),
    Mutation(
        "an envelope's types are not looked at",
        "tidepool/queue/wire.py",
        "return _ENVELOPE.validator.validate_json(payload)",
        "return from_json(payload)",
        f"{ONE_POISON}[P2 time is 1e30]",
    ),
    Mutation(
        "payloads are unpickled",
        "tidepool/queue/wire.py",
        "        return _ENVELOPE.validator.validate_json(payload)\n",
        "        return __import__('pickle').loads(payload)\n",
        f"{ONE_POISON}[P5 pickle bomb]",
    ),
    Mutation(
        "any score is reckoned with",
        "tidepool/queue/leases.py",
        "int(min(max(0.0, float(score)), _LATEST_MS))",
        "int(float(score))",
        f"{ONE_POISON}[P4 score -inf]",
    ),
    Mutation(
        "any count is believed",
        "tidepool/queue/leases.py",
        "int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else 1",
        "int(value)",
        f"{ONE_POISON}[P4 count of tries is text]",
    ),
    Mutation(
        "endless ids that begin alike are one",
        "tidepool/jobs/ids.py",
        """~{digest}"
    return job_id""",
        """"
    return job_id""",
        f"{POISON}::test_endless_ids_that_begin_alike_are_two_jobs",
    ),
    Mutation(
        "the engine's own function can be called from outside",
        "tidepool/engine/attempt.py",
        "worker.functions.get(call.name) if call.name != UNRUNNABLE else None",
        "worker.functions.get(call.name)",
        f"{ONE_POISON}[P19 the engine's own function]",
    ),
    Mutation(
        "unknown fields are ignored",
        "tidepool/jobs/command.py",
        'extra="forbid"',
        'extra="ignore"',
        f"{ONE_POISON}[P15 a column that is no field]",
    ),
    Mutation(
        "values are converted",
        "tidepool/jobs/command.py",
        "ConfigDict(strict=True, frozen=True",
        "ConfigDict(strict=False, frozen=True",
        f"{ONE_POISON}[P8 truth for number]",
    ),
    # ---------------------------------------------------------------- measuring, and the drill
    Mutation(
        "measuring: the service's queue is handed on",
        "lab/bench/servers.py",
        "QUEUE_NAME=QUEUE, METRICS_PORT",
        "METRICS_PORT",
        f"{BENCH}::test_the_queue_and_the_port_of_the_service_are_not_those_of_what_is_measured",
    ),
    Mutation(
        "measuring: the service's port is handed on",
        "lab/bench/servers.py",
        ', METRICS_PORT="", **variables',
        ", **variables",
        f"{BENCH}::test_the_queue_and_the_port_of_the_service_are_not_those_of_what_is_measured",
    ),
    Mutation(
        "measuring: the password is on pgbench's command line",
        "lab/bench/pgbench.py",
        "who = f\"{user.partition(':')[0]}@\"",
        'who = f"{user}@"',
        f"{BENCH}::test_pgbench_gets_the_password_where_nobody_sees_it",
    ),
    Mutation(
        "measuring: nobody asks whether a worker has ended",
        "lab/bench/drain.py",
        "if any(process.returncode is not None for process in processes):",
        "if not processes:",
        f"{BENCH}::test_a_latency_that_never_comes",
    ),
    Mutation(
        "measuring: what ends the load is lost",
        "lab/tuning/arm.py",
        "task.result()",
        "task.done()",
        "tests/integration/test_lab.py::test_what_ends_the_load_is_what_is_told",
    ),
    Mutation(
        "drill: one that is cut short lets its producer finish",
        "lab/drill/run.py",
        "producer.kill()",
        "await _ended(producer)",
        f"{ARENA}::test_a_drill_that_is_cut_short_enqueues_nothing_more",
    ),
    Mutation(
        "advice is given by all who looked at once",
        "tidepool/advice/advice_job.py",
        "await events.lock_advice() and not",
        "not",
        "tests/integration/test_adviser.py::test_workers_that_start_together_give_advice_once",
    ),
    Mutation(
        "advice is given without a second look",
        "tidepool/advice/advice_job.py",
        "if await events.lock_advice() and not await _is_given(connection, now):",
        "if await events.lock_advice():",
        "tests/integration/test_adviser.py::test_who_judges_longer_than_another_gives_no_advice",
    ),
    # ---------------------------------------------------------------- the front
    Mutation(
        "front: it answers to any name",
        "tidepool/web/guard.py",
        'if self._access.token is not None or names_this_machine(headers.get(b"host", b"")):',
        "if headers:",
        f"{GUARD}::test_a_front_without_a_token_answers_to_no_other_name",
    ),
    Mutation(
        "front: changes are taken from other sites",
        "tidepool/web/guard.py",
        "if not _from_here(headers):",
        "if _from_here(headers) is None:",
        f"{GUARD}::test_changes_are_not_taken_from_another_site",
    ),
    Mutation(
        "front: what a form sends is a command",
        "tidepool/web/guard.py",
        'if not empty and scope["path"] not in (PATH, SIGN_OUT_PATH) and not',
        "if empty and not",
        f"{GUARD}::test_what_a_form_can_send_is_no_command",
    ),
    Mutation(
        "front: a body is as long as it likes",
        "tidepool/web/guard.py",
        "if size > most:",
        "if size < 0:",
        f"{GUARD}::test_a_body_that_is_too_large_is_refused",
    ),
    Mutation(
        "front: any token will do",
        "tidepool/web/sign_in.py",
        "right = self.is_right(given.strip())",
        "right = bool(given.strip())",
        f"{GUARD}::test_a_token_is_asked_of_everybody",
    ),
    Mutation(
        "front: a session is not signed",
        "tidepool/web/sign_in.py",
        "if not hmac.compare_digest(cookie.encode(), self._signed(session).encode()):",
        "if not session:",
        f"{GUARD}::test_a_session_ends",
    ),
    Mutation(
        "front: addresses are never forgotten",
        "tidepool/web/rates.py",
        "self._full_at_s.popitem(last=False)",
        "self._full_at_s.keys()",
        f"{GUARD}::test_the_buckets_are_bounded",
    ),
    Mutation(
        "front: a repeated job is not looked up",
        "producer/http/commands.py",
        "await accepting.settled(submission.id) if key is not None else None",
        "None",
        f"{COMMANDS}::test_a_repeated_job_that_redis_has_forgotten_is_answered_from_the_ledger",
    ),
    Mutation(
        "front: a requeue that names nothing is one of everything",
        "tidepool/web/jobs.py",
        "if wanted.search is None and not any(wanted.conditions.values()):",
        "if wanted.search and not wanted.search:",
        "tests/integration/test_front_jobs.py::test_a_requeue_of_everything_is_refused",
    ),
    Mutation(
        "front: who leaves is waited for",
        "tidepool/web/waiting.py",
        "futures.remove(future)",
        "futures.count(future)",
        f"{COMMANDS}::test_a_caller_who_leaves_is_not_waited_for",
    ),
    Mutation(
        "front: a result in Redis is believed for a job whose id the caller chose",
        "producer/http/commands.py",
        "confirm=key is not None)",
        "confirm=False)",
        f"{COMMANDS}::test_a_result_that_is_forged_while_somebody_waits_is_not_believed",
    ),
    Mutation(
        "front: a result in Redis keeps a job from being enqueued",
        "tidepool/web/accepting.py",
        "if outcome is None:",
        "if outcome and not outcome:",
        f"{COMMANDS}::test_a_forged_result_is_not_believed",
    ),
    Mutation(
        "front: anybody is believed what X-Forwarded-For says",
        "tidepool/web/callers.py",
        "if not self._proxies or not self._is_proxy(peer := _address(_peer(scope))):",
        "if not self._proxies or not (peer := _address(_peer(scope))):",
        f"{CALLERS}::test_the_caller_is_the_last_that_a_trusted_proxy_names",
    ),
    Mutation(
        "HTTP: a head that does not end has no deadline",
        "tidepool/bounded_http/protocol.py",
        "if self._deadline is None:\n            self._set_deadline()",
        "if self._in_body and self._deadline is None:\n            self._set_deadline()",
        f"{BOUNDED}::test_a_half_head_on_a_kept_connection_is_answered_408",
    ),
    Mutation(
        "HTTP: half requests hold their connections",
        "tidepool/bounded_http/limits.py",
        "return self.count < self.limit or self.evict()",
        "return self.count < self.limit",
        f"{BOUNDED}::test_half_requests_lock_nobody_out",
    ),
    Mutation(
        "front: a key is another id than the same text in a file",
        "producer/http/commands.py",
        'header if header.isascii() else header.encode("latin-1").decode()',
        "header",
        f"{COMMANDS}::test_an_id_is_the_same_whichever_way_it_comes",
    ),
    Mutation(
        "front: the first of two keys counts",
        "producer/http/commands.py",
        "if len(headers) > 1:",
        "if len(headers) > 2:",
        f"{COMMANDS}::test_two_keys_are_no_key",
    ),
    Mutation(
        "money that a float has rounded is taken",
        "worker/jobs/fields.py",
        "and len(digits) <= _EXACT_DIGITS",
        "and len(digits) <= 99",
        "tests/unit/test_fields.py::test_a_number_is_taken_to_the_letter_or_not_at_all",
    ),
    # ---------------------------------------------------------------- addresses
    Mutation(
        "URL: one that does not parse is shown",
        "tidepool/urls.py",
        "    if match is None:\n        return UNREADABLE",
        "    if match is None:\n        return url",
        "tests/unit/test_urls.py::test_a_url_that_does_not_parse_is_never_shown",
    ),
    Mutation(
        "URL: an unknown parameter is dropped without a word",
        "tidepool/urls.py",
        "elif name not in (*_POSTGRES_HONOURED, *_POSTGRES_DROPPED, *_POSTGRES_ADDRESS):",
        "elif not name:",
        "tests/unit/test_urls.py::test_a_url_of_postgresql_is_refused_in_words",
    ),
    Mutation(
        "the start takes a replica of Redis",
        "tidepool/queue/connection.py",
        'if info.get("role") == "slave" and info.get("slave_read_only", 1) == 1:',
        'if info.get("role") == "slave" and info.get("slave_read_only", 1) == 2:',
        "tests/integration/test_refusals.py",
    ),
    Mutation(
        "the drill takes our own table for a stranger's",
        "lab/drill/sql/guard.sql",
        "'schema_migrations', 'turns')",
        "'schema_migrations')",
        "tests/integration/test_drill_guard.py::test_every_table_of_the_migrations_is_known",
    ),
    Mutation(
        "a pooler's prepared statement is a job's fault",
        "tidepool/pool/faults.py",
        "if state.startswith((*_REFUSED_CLASSES, *_POOLED)):",
        "if state.startswith(_REFUSED_CLASSES):",
        f"{FAULTS}::test_a_poolers_prepared_statements_are_no_jobs_fault",
    ),
    # ---------------------------------------------------------------- the producer
    Mutation(
        "lines are held back until a chunk is full",
        "producer/source.py",
        "if taken or ended:",
        "if len(taken) == most or ended:",
        f"{SOURCE}::test_a_line_is_taken_while_the_next_is_waited_for",
    ),
    Mutation(
        "a file is read ahead without a bound",
        "producer/source.py",
        "while len(self._there) >= MOST_AT_ONCE:",
        "while False:",
        f"{SOURCE}::test_no_more_is_read_ahead_than_one_round_trip",
    ),
]

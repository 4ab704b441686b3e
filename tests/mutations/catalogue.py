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
BENCH, ARENA = "tests/integration/test_bench.py", "tests/integration/test_drill_arena.py"
DEADLOCKS = "tests/integration/test_deadlocks.py::test_two_batches_in_opposite_orders_do_not_deadlock"
SOURCE = "tests/unit/test_source.py"

LOG_QUEUE, LOGS = "tests/unit/test_log_queue.py", "tests/unit/test_logs.py"

MUTATIONS = [
    # ---------------------------------------------------------------- log lines
    Mutation(
        "no bound on waiting log lines",
        "worker/log_queue.py",
        "if self._is_closed or self._dropped or is_full:",
        "if self._is_closed or self._dropped:",
        f"{LOG_QUEUE}::test_a_pipe_that_nobody_reads_drops_the_newest_and_counts",
    ),
    Mutation(
        "the end waits for the log's reader",
        "worker/log_queue.py",
        "self._thread.join(wait_s)",
        "self._thread.join(30)",
        f"{LOG_QUEUE}::test_an_end_does_not_wait_for_a_reader",
    ),
    Mutation(
        "a failed write ends the log's thread",
        "worker/log_queue.py",
        "        except OSError:\n            self._is_torn",
        "        except BlockingIOError:\n            self._is_torn",
        f"{LOG_QUEUE}::test_a_full_disk_is_reported_when_there_is_room_again",
    ),
    Mutation(
        "every repeated error has its traceback",
        "worker/logs.py",
        "place is None or self._now_s() < place.until_s",
        "place is None",
        f"{LOGS}::test_a_traceback_is_logged_once_a_minute_for_each_function_and_place",
    ),
    Mutation(
        "a blocked loop keeps its lease for ever",
        "worker/engine/renewal.py",
        "< LONGEST_BLOCK_S",
        "< 1e9",
        f"{LEASES}::test_a_blocked_loop_keeps_its_lease_for_as_long_as_is_documented",
    ),
    # ---------------------------------------------------------------- the ledger
    Mutation(
        "no check that the ledger took every row",
        "worker/ledger.py",
        "if count < len(entries):",
        "if count < 0:",
        f"{LEDGER}::test_a_redelivered_job_gets_its_stored_outcome",
    ),
    Mutation(
        "no look-up of stored outcomes",
        "worker/ledger.py",
        "repositories.results.lookup([job.id for job in batch]) if look_up else {}",
        "repositories.results.lookup([]) if look_up else {}",
        f"{LEDGER}::test_new_and_redelivered_jobs_share_a_batch",
    ),
    Mutation(
        "a stored outcome is overwritten",
        "worker/db/sql/results.sql",
        "WHERE job_results.requeued_at IS NOT NULL",
        "WHERE true",
        f"{LEDGER}::test_a_redelivered_job_gets_its_stored_outcome",
    ),
    Mutation(
        "a requeued job's old outcome still counts",
        "worker/db/sql/results.sql",
        "SELECT job_id, status, result, reason, error\n"
        "FROM job_results\n"
        "WHERE job_id = ANY ($1::text[]) AND requeued_at IS NULL",
        "SELECT job_id, status, result, reason, error\nFROM job_results\nWHERE job_id = ANY ($1::text[])",
        "tests/integration/test_requeue.py::test_a_marked_row_is_no_outcome_any_more",
    ),
    Mutation(
        "an applied job is requeued",
        "worker/db/sql/results.sql",
        "WHERE status <> 'applied' AND args IS NOT NULL",
        "WHERE args IS NOT NULL OR status = 'applied'",
        "tests/integration/test_requeue.py::test_applied_jobs_are_never_taken_back",
    ),
    Mutation(
        "the ledger's row outside of the effect's transaction",
        "worker/ledger.py",
        "            written = await self._write(function, fresh, decided, repositories, begun_ns)\n",
        "        async with self._pool.transaction() as connection:\n"
        "            written = await self._write(function, fresh, decided, Repositories(connection), begun_ns)\n",
        f"{FAULTS}::test_an_effect_whose_row_cannot_be_written_is_rolled_back",
    ),
    Mutation(
        "no transaction at all",
        "worker/db/pool.py",
        "async with self.acquire() as connection, connection.transaction():",
        "async with self.acquire() as connection:",
        "tests/integration/test_pool.py::test_a_transaction_commits_or_rolls_back",
    ),
    Mutation(
        "a failed batch is not split",
        "worker/ledger.py",
        "                parts = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]\n",
        "                return [await self._settle_alone(delivery, error) for delivery in batch]\n",
        f"{FAULTS}::test_one_jobs_data_does_not_change_the_others_outcomes",
    ),
    Mutation(
        "a job's own fault is tried again without end",
        "worker/ledger.py",
        "decided = Failed(text) if delivery.last_try else",
        "decided = Failed(text) if False else",
        f"{FAULTS}::test_a_job_whose_code_raises_on_its_last_try_has_failed",
    ),
    Mutation(
        "an outage of PostgreSQL is the job's fault",
        "worker/ledger.py",
        "            except (Unavailable, Refused) as fault:\n",
        "            except (Unavailable, Refused) as fault:\n                raise\n",
        f"{FAULTS}::test_a_server_that_is_away_or_refuses_us_is_waited_for",
    ),
    Mutation(
        "an error's text is stored as it is",
        "worker/ledger.py",
        '.replace("\\x00", "\\\\x00")',
        "",
        f"{FAULTS}::test_an_errors_text_never_breaks_its_row",
    ),
    Mutation(
        "content with NUL is kept",
        "worker/ledger.py",
        "return None if _ESCAPED_NUL.search(text) else text",
        "return text",
        f"{ONE_POISON}[P9 NUL in text]",
    ),
    Mutation(
        "an order does not look again for its user",
        "worker/ledger.py",
        "if not delivery.looked_again:",
        "if False:",
        f"{LEDGER}::test_an_unknown_reference_is_looked_up_again_at_once",
    ),
    # ---------------------------------------------------------------- batches
    Mutation(
        "users are inserted as they come",
        "worker/db/sql/users.sql",
        "FROM given ORDER BY username, position",
        "FROM given ORDER BY position",
        f"{DEADLOCKS}[create_users-None]",
    ),
    Mutation(
        "products are inserted as they come",
        "worker/db/sql/products.sql",
        "FROM given ORDER BY sku, position",
        "FROM given ORDER BY position",
        f"{DEADLOCKS}[create_products-None]",
    ),
    Mutation(
        "the ledger's rows are inserted as they come",
        "worker/db/sql/results.sql",
        "FROM jsonb_array_elements($1::jsonb) AS g (r)\nORDER BY job_id\n",
        "FROM jsonb_array_elements($1::jsonb) AS g (r)\n",
        f"{DEADLOCKS}[write_rows-None]",
    ),
    Mutation(
        "a job that is here already runs twice",
        "worker/batcher.py",
        "if len(self._answers[delivery.id]) == 1:",
        "if self._answers[delivery.id]:",
        "tests/unit/test_batcher.py::test_a_job_that_came_back_under_way_is_not_run_twice",
    ),
    # ---------------------------------------------------------------- claims, leases, finishes
    Mutation(
        "a job is acknowledged before its commit",
        "worker/engine/intake.py",
        "            outcome = await self._submit(self._delivery(function, call, command, content))\n",
        "            submitted = self._submit(self._delivery(function, call, command, content))\n"
        "            self.task = __import__('asyncio').ensure_future(submitted)\n"
        "            outcome = Applied({})\n",
        "tests/integration/test_acknowledging.py",
    ),
    Mutation(
        "anybody may finish a job",
        "worker/engine/lua/finish.lua",
        "    if dues[i] then\n",
        "    if dues[i] or how == 'done' then\n",
        f"{LEASES}::test_an_owner_that_lost_its_lease_can_finish_nothing",
    ),
    Mutation(
        "a job that somebody runs is claimed all the same",
        "worker/engine/lua/claim.lua",
        "owner, 'PX', mark_ms, 'NX')",
        "owner, 'PX', mark_ms)",
        f"{LEASES}::test_jobs_that_stock_workers_run_are_paged_past",
    ),
    Mutation(
        "a server that is back with an error counts as away",
        "worker/ledger.py",
        "            except Exception as error:\n                self._answered()\n",
        "            except Exception as error:\n",
        "tests/integration/test_ledger_faults.py::test_a_server_that_is_back_with_an_error_is_back",
    ),
    Mutation(
        "a batch that goes on for ever keeps its worker from ending",
        "worker/batcher.py",
        "            for task in late:\n                task.cancel()\n",
        "            del late\n",
        "tests/unit/test_batcher.py::test_closing_does_not_wait_for_ever",
    ),
    Mutation(
        "a job that does not heed its stop keeps its worker from ending",
        "worker/engine/worker.py",
        "            for task in late:\n                task.cancel()\n",
        "            del late\n",
        "tests/integration/test_engine_recovery.py::test_a_job_that_does_not_heed_its_stop_is_told_again",
    ),
    Mutation(
        "a claim that reaches Redis late is never found",
        "worker/engine/holding.py",
        "now_s + _LOOK_AGAIN_S if now_s < self._doubtful_until_s else math.inf",
        "math.inf",
        "tests/integration/test_holding.py::test_a_claim_that_reaches_redis_late_is_found",
    ),
    Mutation(
        "an idle worker sleeps on when a lease ends",
        "worker/engine/wakeup.py",
        "        return first[0][1] if first else math.inf\n",
        "        return math.inf\n",
        "tests/integration/test_wakeup.py::test_the_wakeup_knows_when_the_next_lease_ends",
    ),
    Mutation(
        "finishes that were refused are forgotten",
        "worker/engine/finisher.py",
        "            self._waiting.extendleft(reversed(batch))\n",
        "",
        "tests/integration/test_holding.py::test_a_finish_that_is_refused_is_kept_and_told",
    ),
    Mutation(
        "what was applied is told as failed",
        "worker/engine/job_run.py",
        "        if answer is not None:\n",
        '        if error.kind == "invalid":\n',
        "tests/integration/test_acknowledging.py::test_what_was_applied_is_told_as_applied",
    ),
    Mutation(
        "a suspect in somebody's hands has no mark that is kept",
        "worker/engine/lua/claim.lua",
        "local skipped, done, page = 0, 0, nil",
        "local skipped, done, page = 0, #raised, nil",
        f"{LEASES}::test_a_suspect_is_marked_as_any_job_is",
    ),
    Mutation(
        "a job that ran to its end stays a suspect",
        "worker/engine/lua/finish.lua",
        "                redis.call('HDEL', KEYS[4], id) -- it has been run to its end, and killed nobody\n",
        "",
        f"{LEASES}::test_a_job_that_ran_to_its_end_is_no_suspect",
    ),
    Mutation(
        "a job that is held for long loses its marks",
        "worker/engine/lua/renew.lua",
        "tonumber(mark_end) < now + 1.5 * lease_ms",
        "tonumber(mark_end) < now",
        f"{LEASES}::test_only_marks_that_are_old_are_renewed",
    ),
    Mutation(
        "a job is due again before its owner's lease has ended",
        "worker/engine/lua/claim.lua",
        "local mark_ms = 2 * lease_ms\n",
        "local mark_ms = lease_ms\n",
        f"{LEASES}::test_marks_outlive_the_lease",
    ),
    Mutation(
        "a living owner's jobs are put back",
        "worker/engine/lua/claim.lua",
        "redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 2)",
        "redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '+inf', 'LIMIT', 0, 2)",
        f"{LEASES}::test_a_claimed_job_is_nobody_elses",
    ),
    Mutation(
        "a lost owner's jobs stay lost",
        "worker/engine/lua/claim.lua",
        "returned = returned + put_back(lost)",
        "returned = returned",
        f"{LEASES}::test_a_lost_owners_jobs_come_back_to_their_old_places",
    ),
    Mutation(
        "a lease is not renewed",
        "worker/engine/lua/renew.lua",
        "redis.call('ZADD', KEYS[2], now + lease_ms, owner)",
        "",
        f"{LEASES}::test_renewing_keeps_every_job_of_the_owner",
    ),
    Mutation(
        "an owner that slept goes on as if nothing were",
        "worker/engine/holding.py",
        "            self._number += 1\n",
        "            pass\n",
        "tests/integration/test_engine_recovery.py::test_a_worker_that_lost_its_lease_goes_on_as_a_new_owner",
    ),
    Mutation(
        "a lease once lost is lost with each claim",
        "worker/engine/holding.py",
        "        if not self._jobs:\n",
        "        if not known:\n",
        "tests/integration/test_engine_recovery.py::test_a_lease_that_is_lost_is_lost_once",
    ),
    Mutation(
        "a job that kills its workers runs for ever",
        "worker/engine/job_run.py",
        "if call.claimed.lapses >= MOST_LAPSES:",
        "if False:",
        "tests/integration/test_engine_recovery.py::test_a_job_that_killed_three_workers_is_failed_and_named",
    ),
    Mutation(
        "a job that a stop interrupts is done",
        "worker/engine/job_run.py",
        "if worker.retry_jobs and isinstance(error, (Retry, RetryJob, asyncio.CancelledError)):",
        "if worker.retry_jobs and isinstance(error, (Retry, RetryJob)):",
        "tests/integration/test_engine_behaviour.py::test_a_signal_without_wait_puts_running_jobs_back",
    ),
    Mutation(
        "trouble with Redis ends the worker",
        "worker/engine/trouble.py",
        "        if not is_trouble(error):\n            raise error\n",
        "        raise error\n",
        "tests/integration/test_engine_recovery.py::test_a_redis_that_is_killed_and_comes_back_ends_no_worker",
    ),
    Mutation(
        "a repeated enqueueing does not know that it went through",
        "producer/enqueue.lua",
        "if receipt then\n",
        "if false then\n",
        "tests/unit/test_client.py::test_a_lost_reply_changes_nothing",
    ),
    # ---------------------------------------------------------------- poison
    Mutation(
        "no limit for a payload in the worker",
        "worker/wire.py",
        "if len(payload) > MAX_PAYLOAD_BYTES:",
        "if False:",
        f"{ONE_POISON}[P7 one byte more]",
    ),
    Mutation(
        "an endless payload is read whole",
        "worker/engine/lua/claim.lua",
        "if payload and #payload > most then",
        "if false then",
        f"{LEASES}::test_a_payload_that_is_too_large_is_not_read_whole",
    ),
    Mutation(
        "no limit for a payload in the client",
        "producer/client.py",
        "if len(payload) > wire.MAX_PAYLOAD_BYTES and not again:",
        "if False:",
        f"{POISON}::test_what_no_worker_could_decode_is_refused_when_it_is_enqueued",
    ),
    Mutation(
        "no limit for a job's fields",
        "worker/jobs/job.py",
        "> MOST_FIELDS:",
        "> 2**31:",
        f"{ONE_POISON}[P6 40,000 fields]",
    ),
    Mutation(
        "an envelope's types are not looked at",
        "worker/wire.py",
        "return _ENVELOPE.validator.validate_json(payload)",
        "return from_json(payload)",
        f"{ONE_POISON}[P2 time is 1e30]",
    ),
    Mutation(
        "payloads are unpickled",
        "worker/wire.py",
        "        return _ENVELOPE.validator.validate_json(payload)\n",
        "        return __import__('pickle').loads(payload)\n",
        f"{ONE_POISON}[P5 pickle bomb]",
    ),
    Mutation(
        "any score is reckoned with",
        "worker/engine/leases.py",
        "int(max(0.0, float(score)))",
        "int(float(score))",
        f"{ONE_POISON}[P4 score -inf]",
    ),
    Mutation(
        "any count is believed",
        "worker/engine/leases.py",
        "int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else 1",
        "int(value)",
        f"{ONE_POISON}[P4 count of tries is text]",
    ),
    Mutation(
        "endless ids that begin alike are one",
        "worker/engine/intake.py",
        "    if readable == job_id:\n        return job_id\n",
        "    return readable\n",
        f"{POISON}::test_endless_ids_that_begin_alike_are_two_jobs",
    ),
    Mutation(
        "the engine's own function can be called from outside",
        "worker/engine/job_run.py",
        "worker.functions.get(call.name) if call.name != UNRUNNABLE else None",
        "worker.functions.get(call.name)",
        f"{ONE_POISON}[P19 the engine's own function]",
    ),
    Mutation(
        "unknown fields are ignored",
        "worker/jobs/fields.py",
        'extra="forbid"',
        'extra="ignore"',
        f"{ONE_POISON}[P15 a column that is no field]",
    ),
    Mutation(
        "values are converted",
        "worker/jobs/fields.py",
        "ConfigDict(strict=True, frozen=True",
        "ConfigDict(strict=False, frozen=True",
        f"{ONE_POISON}[P8 truth for number]",
    ),
    # ---------------------------------------------------------------- measuring, and the drill
    Mutation(
        "measuring: the service's queue is handed on",
        "worker/bench/servers.py",
        "QUEUE_NAME=QUEUE, METRICS_PORT",
        "METRICS_PORT",
        f"{BENCH}::test_the_queue_and_the_port_of_the_service_are_not_those_of_what_is_measured",
    ),
    Mutation(
        "measuring: the service's port is handed on",
        "worker/bench/servers.py",
        ', METRICS_PORT="", **variables',
        ", **variables",
        f"{BENCH}::test_the_queue_and_the_port_of_the_service_are_not_those_of_what_is_measured",
    ),
    Mutation(
        "measuring: the password is on pgbench's command line",
        "worker/bench/pgbench.py",
        "who = f\"{user.partition(':')[0]}@\"",
        'who = f"{user}@"',
        f"{BENCH}::test_pgbench_gets_the_password_where_nobody_sees_it",
    ),
    Mutation(
        "measuring: nobody asks whether a worker has ended",
        "worker/bench/drain.py",
        "if any(process.returncode is not None for process in processes):",
        "if not processes:",
        f"{BENCH}::test_a_latency_that_never_comes",
    ),
    Mutation(
        "measuring: what ends the load is lost",
        "worker/lab/arm.py",
        "task.result()",
        "task.done()",
        "tests/integration/test_lab.py::test_what_ends_the_load_is_what_is_told",
    ),
    Mutation(
        "drill: one that is cut short lets its producer finish",
        "worker/drill/run.py",
        "producer.kill()",
        "await _ended(producer)",
        f"{ARENA}::test_a_drill_that_is_cut_short_enqueues_nothing_more",
    ),
    Mutation(
        "advice is given by all who looked at once",
        "worker/health/adviser.py",
        "await events.lock_advice() and not",
        "not",
        "tests/integration/test_adviser.py::test_workers_that_start_together_give_advice_once",
    ),
    Mutation(
        "advice is given without a second look",
        "worker/health/adviser.py",
        "if await events.lock_advice() and not await _is_given(connection, now):",
        "if await events.lock_advice():",
        "tests/integration/test_adviser.py::test_who_judges_longer_than_another_gives_no_advice",
    ),
    # ---------------------------------------------------------------- the front
    Mutation(
        "front: it answers to any name",
        "producer/front/guard.py",
        'if self._token is not None or _names_this_machine(headers.get(b"host", b"")):',
        "if headers:",
        f"{GUARD}::test_a_front_without_a_token_answers_to_no_other_name",
    ),
    Mutation(
        "front: changes are taken from other sites",
        "producer/front/guard.py",
        "if not _from_here(headers):",
        "if _from_here(headers) is None:",
        f"{GUARD}::test_changes_are_not_taken_from_another_site",
    ),
    Mutation(
        "front: what a form sends is a command",
        "producer/front/guard.py",
        'if not empty and scope["path"] != PATH and not',
        "if empty and not",
        f"{GUARD}::test_what_a_form_can_send_is_no_command",
    ),
    Mutation(
        "front: a body is as long as it likes",
        "producer/front/guard.py",
        "if size > MOST_BODY_BYTES:",
        "if size < 0:",
        f"{GUARD}::test_a_body_that_is_too_large_is_refused",
    ),
    Mutation(
        "front: any token will do",
        "producer/front/guard.py",
        "return hmac.compare_digest(given.strip(), self._token)",
        "return bool(given.strip())",
        f"{GUARD}::test_a_token_is_asked_of_everybody",
    ),
    Mutation(
        "front: a session is not signed",
        "producer/front/sign_in.py",
        "return signed and self._clock()",
        "return self._clock()",
        f"{GUARD}::test_a_session_ends",
    ),
    Mutation(
        "front: addresses are never forgotten",
        "producer/front/rates.py",
        "self._full_at_s.popitem(last=False)",
        "self._full_at_s.keys()",
        f"{GUARD}::test_the_buckets_are_bounded",
    ),
    Mutation(
        "front: a repeated job is not looked up",
        "producer/front/commands.py",
        "await accepting.settled(submission.id) if key is not None else None",
        "None",
        f"{COMMANDS}::test_a_repeated_job_that_redis_has_forgotten_is_answered_from_the_ledger",
    ),
    Mutation(
        "front: a requeue that names nothing is one of everything",
        "producer/front/jobs.py",
        "if wanted.search is None and not any(wanted.conditions.values()):",
        "if wanted.search and not wanted.search:",
        "tests/integration/test_front_jobs.py::test_a_requeue_of_everything_is_refused",
    ),
    Mutation(
        "front: who leaves is waited for",
        "producer/front/waiting.py",
        "futures.remove(future)",
        "futures.count(future)",
        f"{COMMANDS}::test_a_caller_who_leaves_is_not_waited_for",
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

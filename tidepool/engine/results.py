"""Makes the results of jobs that have ended, as arq's clients read them."""

from arq.constants import keep_cronjob_progress
from arq.jobs import serialize_result

from tidepool.engine.host import Host
from tidepool.engine.lines import failures, shown_ref
from tidepool.jobs.job import Job
from tidepool.queue.finisher import Done
from tidepool.queue.wire import now_ms


class Results:
    """Encodes the results of the worker *host*, and decides how long each is kept."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def done(self, job: Job, result: object, *, success: bool, was_run: bool = True) -> Done:
        """Return the ending of a job that is done, with the encoded result if results are kept.

        *result* is the error of a job that has failed. As in arq, the result of a job whose function was not run is
        kept for as long as the worker's own setting says, not the function's.
        """
        job.error = result if isinstance(result, BaseException) and not success else None
        function = self._host.functions.get(job.function) if was_run else None
        forever, keep_s = function and function.keep_result_forever, function and function.keep_result_s
        forever = self._host.keep_result_forever if forever is None else forever
        keep_s = (self._host.keep_result_s if keep_s is None else keep_s) or 0
        value = self._encode(job, result, success=success) if forever or keep_s else None
        mark_ms = keep_cronjob_progress * 1000 if job.is_cron else 0
        return Done(value or b"", 0 if forever else round(keep_s * 1000), success, mark_ms)

    def _encode(self, job: Job, result: object, *, success: bool) -> bytes | None:
        """Encode a result for arq's clients: without the job's arguments if it is too large, or an error in its place.

        Redis would cut the connection at a larger value, and no job of this process could be acknowledged any more.
        """
        most = self._host.tidepool_options.max_result_bytes
        value = self._encode_of_any_size(job, job.args, job.kwargs, result, success=success)
        if value is None or len(value) <= most:
            return value
        value = self._encode_of_any_size(job, (), {}, result, success=success)
        if value is None or len(value) <= most:
            return value
        text = f"unable to serialize result: it has {len(value)} bytes, and {most} may be kept"
        failures.warning("%s: %s", shown_ref(job), text)
        return self._encode_of_any_size(job, (), {}, text, success=False)

    def _encode_of_any_size(
        self, job: Job, args: tuple[object, ...], kwargs: dict[str, object], result: object, *, success: bool
    ) -> bytes | None:
        """Encode a result. Characters of an id or a name that UTF-8 cannot express are escaped."""
        return serialize_result(
            *(job.function, args, kwargs, job.attempt, job.enqueued_ms, success, result),
            *(job.started_ms, now_ms(), _encodable(job.ref), self._host.queue_name),
            job_id=_encodable(job.queue_id),
            serializer=self._host.job_serializer,
        )


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()

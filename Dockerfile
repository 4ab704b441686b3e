FROM python:3.12-slim AS builder
# The virtual environment has no installer. Wheels only: nothing of a dependency is executed here.
RUN python -m venv --without-pip /opt/venv
COPY requirements.txt /tmp/
RUN pip --python /opt/venv install --no-cache-dir --disable-pip-version-check --no-deps \
    --require-hashes --only-binary=:all: -r /tmp/requirements.txt
WORKDIR /app
COPY settings.py ./
COPY tidepool/ tidepool/
COPY producer/ producer/
COPY worker/ worker/
# Compiled now, as the file system is read-only later and each health check starts Python anew. The modes of
# the checkout do not matter: owned by root, everybody reads, nobody writes.
RUN python -m compileall -q --invalidation-mode unchecked-hash . && chmod -R u=rwX,go=rX .

FROM python:3.12-slim
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /app /app
WORKDIR /app
# A number, so that Kubernetes' runAsNonRoot can tell, and the same one in every version.
USER 10001:10001
STOPSIGNAL SIGTERM
# The worker writes its sign of life every 3 seconds; WORKER_NAME, by default the container's, tells whose.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["arq", "--check", "worker.WorkerSettings"]
# Without a shell in between, so that SIGTERM reaches the worker, which then finishes the jobs it has.
CMD ["arq", "worker.WorkerSettings"]

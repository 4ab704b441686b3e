FROM python:3.12-slim AS builder
# The virtual environment has no installer, and dependencies are wheels only, so none of their code runs in this build.
RUN python -m venv --without-pip /opt/venv
COPY requirements.txt /tmp/
RUN pip --python /opt/venv install --no-cache-dir --disable-pip-version-check --no-deps \
    --require-hashes --only-binary=:all: -r /tmp/requirements.txt
WORKDIR /app
COPY settings.py ./
COPY tidepool/ tidepool/
COPY producer/ producer/
COPY worker/ worker/
# Compiled here, because the file system is read-only later and each health check starts Python. The files belong to
# root and are readable by all and writable by nobody, whatever modes the checkout has.
RUN python -m compileall -q --invalidation-mode unchecked-hash . && chmod -R u=rwX,go=rX .

FROM python:3.12-slim
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /app /app
WORKDIR /app
# A number, because Kubernetes' runAsNonRoot cannot check a name. It is the same in every version.
USER 10001:10001
STOPSIGNAL SIGTERM
# A worker renews its health key every 3 seconds. The key has WORKER_NAME in it, by default the container's host name.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["arq", "--check", "worker.WorkerSettings"]
# No shell, so that SIGTERM reaches the worker, which then finishes the jobs that it holds.
CMD ["arq", "worker.WorkerSettings"]

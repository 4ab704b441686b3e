"""Signals, standard streams and directories as a process meets them from its first moment on."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Service

from lab.bench.processes import children
from tidepool.embedded.locks import wait_until
from tidepool.embedded.postgres import Postgres
from tidepool.embedded.redis import EmbeddedRedis

ROOT = Path(__file__).parents[2]
COMMANDS = (
    ("producer", "--jobs", "100000", "--rate", "1"),
    ("producer", "serve", "--port", "1"),
    ("worker", "services"),
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("words", [*COMMANDS, ("arq", "worker.WorkerSettings")], ids=lambda words: words[:2])
def test_a_signal_while_it_imports_ends_the_command(service: Service, words: tuple[str, ...], number: int) -> None:
    """With the documented status and without a word, from the moment on in which Python runs our code."""
    code = (
        "import runpy, signal, sys, os; import tidepool.process as process; before = process.prepare; "
        f"process.prepare = lambda **options: (before(**options), os.kill(os.getpid(), {number})); "
        f"sys.argv = {['/usr/bin/arq' if words[0] == 'arq' else words[0], *words[1:]]!r}; "
        f"runpy.run_module({words[0]!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=service.environment, cwd=ROOT, capture_output=True, check=False, timeout=50
    )
    assert (128 + number, b"", b"") == (done.returncode, done.stdout, done.stderr)


def test_a_signal_while_python_ends_changes_no_status(service: Service) -> None:
    """Python restores what signals do by default before it destroys the modules, and SIGTERM would kill it then."""
    code = (
        "import os, signal, sys; from tidepool import process\n"
        "class Last:\n"
        "    def __del__(self, end=os.kill, pid=os.getpid(), number=signal.SIGTERM): end(pid, number)\n"
        "process.prepare(); last = Last(); process.run(lambda: sys.exit(1))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=service.environment, cwd=ROOT, check=False, timeout=50)
    assert 1 == done.returncode


def test_settings_of_another_name_are_one_line(service: Service) -> None:
    """`arq worker.Typo` ended with a traceback of arq's."""
    done = service.run("arq", "worker.Typo")
    line = "error: no settings are called Typo: arq worker.WorkerSettings\n"
    assert (2, "", line) == (done.status, done.stdout, done.stderr)


@pytest.mark.parametrize("command", ["bench", "drill"])
def test_a_moved_command_without_the_laboratory_is_one_line(service: Service, tmp_path: Path, command: str) -> None:
    """The image has no `lab`."""
    for part in ("tidepool", "worker", "producer", "settings.py"):
        (tmp_path / part).symlink_to(ROOT / part)
    done = subprocess.run(
        [sys.executable, "-m", "worker", command],
        env=service.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (2, "") == (done.returncode, done.stdout)
    assert "error: the laboratory is not installed here" == done.stderr.splitlines()[-1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes process 1 of a new namespace")
def test_process_one_hears_the_first_sigterm(service: Service) -> None:
    """The kernel drops it where process 1 has no handler, and `docker stop` then has to kill."""
    unshare = [
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        sys.executable,
        "-m",
        "producer",
        "--jobs",
        "9",
        "--rate",
        "1",
    ]
    with subprocess.Popen(unshare, env=service.environment, cwd=ROOT, stderr=subprocess.PIPE) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        while (
            not (child := children.read_text().split())
            or b"producer" not in Path(f"/proc/{child[0]}/cmdline").read_bytes()
        ):
            time.sleep(0.005)
        caught = Path(f"/proc/{child[0]}/status")
        while not int(caught.read_text().split("SigCgt:")[1].split()[0], 16) & 1 << (signal.SIGTERM - 1):
            time.sleep(0.002)
        os.kill(int(child[0]), signal.SIGTERM)
        assert 143 == running.wait(5)


def test_a_hangup_that_the_parent_ignores_stays_ignored(service: Service) -> None:
    """As `nohup` starts a command; a SIGTERM still ends it."""
    shell = ("sh", "-c", "trap '' HUP; exec \"$@\"", "sh")
    command = [*shell, sys.executable, "-m", "arq", "worker.WorkerSettings"]
    worker = subprocess.Popen(command, env=service.environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    service.started.append(worker)
    assert worker.stderr is not None
    assert any("worker.started" in line for line in worker.stderr)
    worker.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(0.5)
    worker.send_signal(signal.SIGTERM)
    assert 0 == worker.wait(20)


LASTING = {
    ("producer", "serve", "--port"): ("serving on", 143),
    ("producer", "--jobs", "100000", "--rate", "20", "--workers", "1"): ("worker.started", 143),
    ("worker", "services"): ("redis", 143),
    ("arq", "worker.WorkerSettings"): ("worker.started", 0),
}
"""Commands that run until they are stopped: what is logged when they run, and their exit status."""


@pytest.mark.parametrize("words", LASTING, ids=lambda words: "-".join(words[:2]))
def test_signals_that_the_parent_ignores_stay_ignored(
    own_data: Path, service: Service, words: tuple[str, ...], tmp_path: Path
) -> None:
    """As a shell starts a command in the background, and `nohup` any: SIGTERM still ends it, and all it has started."""
    said, status = LASTING[words]
    port = [str(a_free_port())] if words[-1] == "--port" else []
    if words[1] == "services":
        del service.environment["DATABASE_URL"], service.environment["REDIS_URL"]
    log = tmp_path / "log"
    shell = ("sh", "-c", "trap '' INT HUP; exec \"$@\"", "sh", sys.executable, "-m")
    environment = {**service.environment, "DATA_DIR": str(own_data)}
    with log.open("wb") as output:
        running = subprocess.Popen(
            [*shell, *words, *port], env=environment, cwd=ROOT, stdout=output, stderr=output, text=True
        )
    service.started.append(running)
    assert wait_until(lambda: any(said in one.read_text("utf-8") for one in (log, *own_data.glob("logs/*.log"))), 30)
    workers = children(running.pid)
    assert workers or words[1] != "--jobs"
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGINT):
        running.send_signal(number)
        for worker in workers:
            os.kill(worker, number)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.5)
    assert workers == children(running.pid)
    running.send_signal(signal.SIGTERM)
    assert status == running.wait(20), log.read_text("utf-8")
    assert [] == [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert "Traceback" not in log.read_text("utf-8")


@pytest.fixture
def own_data() -> Iterator[Path]:
    """Give a DATA_DIR with a short path; servers that a killed command has left there are stopped."""
    home = Path(tempfile.mkdtemp(prefix="tp-"))
    yield home
    for server in (EmbeddedRedis(home), Postgres(home)):
        if not server.is_down():
            server.ask_to_stop()
    shutil.rmtree(home, ignore_errors=True)


def a_free_port() -> int:
    """Return a port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_a_closed_terminal_stops_a_worker_as_sigterm_does(service: Service) -> None:
    """It finishes its jobs and says so: arq leaves SIGHUP to the kernel, which kills."""
    worker = service.start_worker()
    worker.send_signal(signal.SIGHUP)
    _, log = worker.communicate(timeout=20)
    assert 0 == worker.returncode
    assert "worker.stopped" in log


def test_a_reader_that_has_seen_enough_changes_no_status(service: Service) -> None:
    """`| head -1`, as a table and as JSON."""
    for words in ("results", "results --json", "--help"):
        line = f"set -o pipefail; {sys.executable} -m producer {words} | true"
        done = subprocess.run(["bash", "-c", line], env=service.environment, cwd=ROOT, capture_output=True, check=False)
        assert (0, b"") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ("{} --file - <&-", "standard input: Bad file descriptor"),
        ("{} --file - --workers 1 --json <&-", "standard input: Bad file descriptor"),
        ("{} --file - 0>/dev/null", "standard input: Bad file descriptor"),
        ("gzip -c pyproject.toml | {} --file -", "standard input: is gzip, but must be JSON Lines in UTF-8"),
        (
            "iconv -t UTF-16 pyproject.toml >{0}; {1} --file {0} --follow",
            "{0}: is UTF-16, but must be JSON Lines in UTF-8",
        ),
    ],
)
def test_commands_that_cannot_be_read_are_one_line(service: Service, tmp_path: Path, shell: str, said: str) -> None:
    """Closed standard input, one that fails, and files of another format: status 2, and nothing was enqueued."""
    words = [str(tmp_path / "commands")] if "{0}" in shell else []
    command = shell.format(*words, f"{sys.executable} -m producer")
    done = subprocess.run(
        ["bash", "-c", command], env=service.environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (2, "", f"error: {said.format(*words)}\n") == (done.returncode, done.stdout, done.stderr)


def test_json_stays_json_in_any_encoding(service: Service) -> None:
    """What the encoding lacks is escaped as JSON escapes it."""
    words = ("producer", "requeue", "--json", "é-€-😀", os.fsdecode(b"q"))
    for encoding in ("ascii", "latin-1", "utf-8"):
        done = service.run(*words, PYTHONIOENCODING=encoding)
        assert (1, ["q", "é-€-😀"]) == (done.status, done.document["not_requeued"])


def test_workers_that_can_have_no_log_are_one_line(service: Service) -> None:
    """As on a read-only file system."""
    done = service.run("producer", "--jobs", "1", "--workers", "1", DATA_DIR="/proc/none")
    assert (2, "") == (done.status, done.stdout)
    assert done.stderr.startswith("error: cannot write a worker's log in /proc/none/logs: ")
    assert 1 == done.stderr.count("\n")


def test_a_closed_terminal_ends_a_producer_and_its_workers(service: Service) -> None:
    """No worker is left without the parent that would stop it."""
    words = ("producer", "--jobs", "100000", "--rate", "20", "--workers", "2")
    producer = subprocess.Popen(
        [sys.executable, "-m", *words], env=service.environment, cwd=ROOT, stdout=subprocess.DEVNULL, text=True
    )
    service.started.append(producer)
    children = Path(f"/proc/{producer.pid}/task/{producer.pid}/children")
    while len(workers := children.read_text().split()) < 2:
        assert producer.poll() is None
        time.sleep(0.01)
    producer.send_signal(signal.SIGHUP)
    assert 129 == producer.wait(30)
    assert [] == [pid for pid in workers if Path(f"/proc/{pid}").exists()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_a_full_temporary_directory_disturbs_no_run(service: Service, tmp_path: Path) -> None:
    """The producer and its workers need no room there; what the file system refuses would end them halfway."""
    fill = f"mount -t tmpfs -o size=4k tmpfs {tmp_path} && {{ head -c 64k /dev/zero > {tmp_path}/full; true; }}"
    if subprocess.run(["unshare", "-m", "sh", "-c", fill], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    command = f"{fill} && ! echo more > {tmp_path}/more && exec {sys.executable} -m producer --jobs 3000 --workers 1"
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        env={**service.environment, "TMPDIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert "Traceback" not in ended.stderr
    assert ended.returncode in (0, 1), ended.stderr  # 1: the usual mix has jobs that are rejected
    assert "3,000" in ended.stdout

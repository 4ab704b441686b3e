"""What the image, the compose file and the pinned requirements promise, read out of their text."""

import os
import re
import tomllib
from typing import Any

import pytest
from deployment import ROOT, compose, service, text

OURS, STORES = ("worker", "front", "producer"), ("postgres", "redis")
"""Those that work with the stores, and those."""
SERVICES = ("migrate", *OURS, *STORES)


def pins() -> dict[str, str]:
    """Return the versions of requirements.txt by name."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text("requirements.txt"), re.MULTILINE))


def project() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def names(requirements: list[str]) -> set[str]:
    """Return the bare names of requirements."""
    return {re.split(r"[^\w.-]", requirement)[0] for requirement in requirements}


# The compose file.


def test_the_services_are_those_that_these_tests_look_at() -> None:
    """A new one has to be added here, and then keeps the promises too."""
    assert sorted(compose()["services"]) == sorted(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_rights_that_it_does_not_need(name: str) -> None:
    """An intruder in one can write nothing but its data, and cannot become another user."""
    found = service(name)
    assert found["read_only"] == "true"
    assert found["cap_drop"] == "[ALL]"
    assert found["security_opt"] == '["no-new-privileges:true"]'
    assert found["tmpfs"] == "[/tmp]"
    assert not found.keys() & {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"}


@pytest.mark.parametrize("name", STORES)
def test_the_stores_run_as_their_own_user(name: str) -> None:
    """For the workers their image says it."""
    assert service(name)["user"] == name


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_cannot_take_the_whole_machine(name: str) -> None:
    """Neither its memory nor its processes."""
    assert re.fullmatch(r"\d+[mg]", service(name)["mem_limit"])
    assert int(service(name)["pids_limit"]) > 0


@pytest.mark.parametrize("name", SERVICES)
def test_a_containers_log_is_bounded(name: str) -> None:
    """Some files of some megabytes: the default driver keeps all of it."""
    found = re.fullmatch(
        r"\{driver: json-file, options: \{max-size: (\d+)m, max-file: \"(\d+)\"\}\}", service(name)["logging"]
    )
    assert found
    assert int(found[1]) * int(found[2]) <= 200


@pytest.mark.parametrize("name", SERVICES)
def test_no_port_is_published_but_on_the_loopback_address(name: str) -> None:
    """Docker publishes past the host's firewall."""
    for port in re.findall(r"[^\s\[\],\"'-][^\s,\"']*", service(name).get("ports", "")):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", SERVICES)
def test_everything_meets_on_one_network_without_a_way_out(name: str) -> None:
    """Nothing outside reaches the stores, and nothing inside reaches the world; the front's port is reached."""
    assert service(name)["networks"] == ("[stores, entrance]" if name == "front" else "[stores]")
    assert compose()["networks"] == {
        "stores": "{internal: true}",
        "entrance": '{driver_opts: {com.docker.network.bridge.enable_ip_masquerade: "false"}}',
    }


def test_images_are_of_a_release_line() -> None:
    """Not of whatever is newest: PostgreSQL 19 would not read the data of 18. Within a line a rebuild brings fixes."""
    images = [service(name)["image"] for name in STORES] + re.findall(r"^FROM (\S+)", text("Dockerfile"), re.MULTILINE)
    assert all(re.fullmatch(r"[a-z]+:\d[\d.]*(-[a-z]+)?", image) for image in images)
    assert "build" in service("worker")


def test_every_secret_has_to_be_given() -> None:
    """No default, so that nobody's production runs with a password out of this repository."""
    secrets = re.findall(r"\$\{(\w+)(\S*)", text("docker-compose.yml"))
    assert {name for name, _ in secrets} == {"POSTGRES_PASSWORD", "WORK_PASSWORD", "REDIS_PASSWORD", "FRONT_TOKEN"}
    assert all(rest.startswith(":?") for _, rest in secrets)
    for name in SERVICES:
        for variable, value in service(name).get("environment", {}).items():
            assert "${" in value or not re.search("PASSWORD|AUTH|URL|TOKEN", variable)


def test_the_example_of_the_secrets_names_them_all_and_gives_none() -> None:
    """An example that works is one that stays."""
    names = ("POSTGRES_PASSWORD", "WORK_PASSWORD", "REDIS_PASSWORD", "FRONT_TOKEN")
    assert text(".env.example").splitlines() == [f"{name}=" for name in names]
    assert ".env" in text(".gitignore").splitlines()


@pytest.mark.parametrize("name", SERVICES)
def test_no_password_is_an_argument_of_a_process(name: str) -> None:
    """Arguments show in every list of processes; environments do not."""
    found = service(name)
    check = found["healthcheck"]
    arguments = found.get("command", "") + (check if isinstance(check, str) else check["test"])
    assert "${" not in arguments
    assert "--requirepass" not in arguments


@pytest.mark.parametrize("name", ["worker", "front", *STORES])
def test_what_stays_is_checked_and_comes_back(name: str) -> None:
    """The producer ends by itself; the image's check, which asks for a worker, is not for it."""
    assert service(name)["healthcheck"]["test"].startswith('["CMD')
    assert service(name)["restart"] == "unless-stopped"
    assert service("producer")["healthcheck"] == "{disable: true}"


@pytest.mark.parametrize(("name", "directory"), [("postgres", "/var/lib/postgresql"), ("redis", "/data")])
def test_data_outlive_their_container(name: str, directory: str) -> None:
    """PostgreSQL's image has its volume one level higher since 18; elsewhere the data would be lost with it."""
    assert f'"{name}-data:{directory}"' in service(name)["volumes"]
    assert f"{name}-data" in compose()["volumes"]


def test_redis_forgets_no_job() -> None:
    """Neither at a restart nor when it is full."""
    assert "--appendonly yes" in service("redis")["command"]
    assert "--maxmemory-policy noeviction" in service("redis")["command"]


def test_workers_can_be_many() -> None:
    """Whatever is fixed here would be there only once."""
    assert not service("worker").keys() & {"container_name", "hostname", "ports"}
    assert "WORKER_NAME" not in service("worker")["environment"]


@pytest.mark.parametrize("name", OURS)
def test_what_works_starts_when_redis_is_healthy_and_the_tables_are_there(name: str) -> None:
    """They would wait for the one, but the log would say so; without the other they could not start."""
    assert service(name)["depends_on"] == {
        "migrate": "{condition: service_completed_successfully}",
        "redis": "{condition: service_healthy}",
    }


@pytest.mark.parametrize("name", OURS)
def test_only_the_migration_logs_in_as_the_owner_of_the_tables(name: str) -> None:
    """An intruder in a worker can drop no table."""
    environment = service(name)["environment"]
    assert environment["DB_USER"] == "tidepool_work"
    assert environment["DB_PASSWORD"].startswith("${WORK_PASSWORD")
    assert environment["MIGRATE_ON_START"] == '"false"'
    assert service("migrate")["environment"]["DB_USER"] == service("postgres")["environment"]["POSTGRES_USER"]
    assert service("migrate")["command"] == '["python", "-m", "worker", "migrate", "--roles"]'
    assert service("migrate")["depends_on"] == {"postgres": "{condition: service_healthy}"}


def test_a_worker_is_not_killed_while_it_finishes_its_jobs() -> None:
    """Docker's own patience is 10 seconds."""
    found = service("worker")
    assert int(found["stop_grace_period"].removesuffix("s")) > int(found["environment"]["SHUTDOWN_WAIT"])


def test_the_front_is_reached_from_this_machine_by_who_has_the_token() -> None:
    """In its container it listens to the container's address, which it refuses to do without one."""
    front = service("front")
    assert front["command"] == '["python", "-m", "producer", "serve", "--host", "0.0.0.0"]'
    assert front["ports"] == '["127.0.0.1:8000:8000"]'
    assert front["environment"]["FRONT_TOKEN"].startswith("${FRONT_TOKEN:?")


def test_the_load_starts_only_when_asked_for() -> None:
    """`docker compose up` in production must not fill the tables."""
    assert service("producer")["profiles"] == "[load]"
    assert service("producer")["command"] == '["python", "-m", "producer", "--jobs", "10000", "--follow"]'


# The image.


def final_stage() -> str:
    """Return the part of the Dockerfile that becomes the image."""
    return re.split(r"^FROM ", text("Dockerfile"), flags=re.MULTILINE)[-1]


def test_the_image_runs_as_a_user_with_a_fixed_number_that_is_not_root() -> None:
    """A name would not tell an orchestrator that it is not root."""
    assert re.findall(r"^USER (.*)$", final_stage(), re.MULTILINE) == ["10001:10001"]


def test_signals_reach_the_worker() -> None:
    """A command in shell form would leave the shell with the signal."""
    assert 'CMD ["arq", "worker.WorkerSettings"]' in final_stage().splitlines()
    assert "STOPSIGNAL SIGTERM" in final_stage().splitlines()
    assert "ENTRYPOINT" not in final_stage()


def test_the_image_checks_itself_like_the_compose_file() -> None:
    """One of the two is what a runtime sees, depending on its image format."""
    command = '["arq", "--check", "worker.WorkerSettings"]'
    assert re.search(rf"^HEALTHCHECK .*\\\n +CMD {re.escape(command)}$", final_stage(), re.MULTILINE)
    assert service("worker")["healthcheck"]["test"] == command.replace("[", '["CMD", ')


def test_the_image_has_nothing_in_it_but_what_runs() -> None:
    """What the build cannot see, such as .env, cannot end up in a layer."""
    copied = re.findall(r"^COPY (?!--from)(\S+)", text("Dockerfile"), re.MULTILINE)
    assert copied == ["requirements.txt", "settings.py", "tidepool/", "producer/", "worker/"]
    allowed = [line for line in text(".dockerignore").splitlines() if line.startswith("!")]
    assert text(".dockerignore").splitlines()[0] == "*"
    assert sorted(allowed) == sorted(f"!{path}" for path in copied)
    assert not re.search(r"PASSWORD|SECRET|TOKEN", text("Dockerfile"))


def test_what_the_image_installs_is_checked_against_the_hashes_and_never_built() -> None:
    """A source distribution runs its code while it is installed."""
    install = text("Dockerfile").replace("\\\n", " ")
    assert re.search(r"pip .*install .*--require-hashes --only-binary=:all: +-r /tmp/requirements.txt", install)


# The requirements.


def test_every_requirement_has_an_exact_version_and_hashes() -> None:
    """One without would make pip refuse the whole file."""
    for requirement in text("requirements.txt").replace("\\\n", " ").splitlines():
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ; [^-]+?)?( +--hash=sha256:[0-9a-f]{64})+", requirement)


def test_the_requirements_name_no_address() -> None:
    """They are installed from wherever the reader installs from."""
    content = (ROOT / "requirements.txt").read_text("utf-8")
    assert not re.search(r"://|file:|index|find-links|trusted-host|@|^-", content, re.MULTILINE)


def test_the_requirements_are_the_versions_that_are_tested() -> None:
    """A version that changes in pyproject.toml changes here too: run .ci/lock."""
    tested = dict(pin.split("==") for pin in project()["tool"]["uv"]["constraint-dependencies"])
    assert pins() == {name: tested.get(name) for name in pins()}


def test_the_requirements_are_those_of_production() -> None:
    """The library's and its web extra's, and nothing that only tests or embedded servers need."""
    needed, extras = project()["project"]["dependencies"], project()["project"]["optional-dependencies"]
    assert names(needed + extras["web"]) <= pins().keys()
    assert not names(project()["dependency-groups"]["dev"] + extras["embedded"]) & pins().keys()


def test_the_requirements_can_be_audited() -> None:
    """By a command that fails where a version could not be looked up, too."""
    assert os.access(ROOT / ".ci/audit", os.X_OK)
    assert {"--require-hashes", "--strict"} <= set(text(".ci/audit").split())


def test_the_requirements_say_how_they_are_made() -> None:
    """So that nobody edits hashes by hand."""
    assert ".ci/lock" in (ROOT / "requirements.txt").read_text("utf-8").splitlines()[0]
    assert os.access(ROOT / ".ci/lock", os.X_OK)

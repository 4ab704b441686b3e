"""The drill as a command: faults, and every job accounted for."""

import pytest
from commands import Service

IN_CI = "kill-after-commit,kill-before-finish,commit-reply-lost,redis-crash"


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("--fault", IN_CI), id="short"),
        pytest.param(("--minutes", "2"), id="two minutes", marks=pytest.mark.slow),
    ],
)
def test_every_job_is_accounted_for(service: Service, words: tuple[str, ...]) -> None:
    """Whatever was killed or cut when: none lost, none doubled, none wrong, and no worker ended by itself."""
    ended = service.run(
        "worker", "drill", *words, "--seed", "11", "--rate", "300", "--shots", "2", "--json", timeout_s=230
    )
    assert 0 == ended.status, ended.stdout + ended.stderr
    assert ended.document["holds"]
    assert not any(ended.document["verdict"]["counts"].values())
    assert ended.document["verdict"]["jobs"] > 5000


def test_the_faults_are_listed(service: Service) -> None:
    """And one that is none is refused with their names."""
    listed = service.run("worker", "drill", "--list", "--json").document
    assert {"kill", "commit-reply-lost", "redis-flushed"} <= {fault["fault"] for fault in listed}
    refused = service.run("worker", "drill", "--fault", "kill,earthquake")
    assert 2 == refused.status
    assert "earthquake: not of kill," in refused.stderr

"""Builds the OpenAPI description of a route that enqueues jobs: the fields of the job's command, and the responses."""

from collections.abc import Collection
from typing import Any

from fastapi import status

from tidepool.jobs.job import JobType
from tidepool.web.problems import PROBLEM_SCHEMA

_JOB_ID = {"type": "string", "description": "the job's id"}
_JOB_URL = {"type": "string", "description": "where the job and its outcome are read"}
_ACCEPTED: dict[str, object] = {
    "type": "object",
    "required": ["id", "url", "status"],
    "properties": {"id": _JOB_ID, "url": _JOB_URL, "status": {"const": "queued"}},
}
_APPLIED: dict[str, object] = {
    "type": "object",
    "required": ["id", "url", "status", "result"],
    "properties": {
        "id": _JOB_ID,
        "url": _JOB_URL,
        "status": {"const": "applied"},
        "result": {"type": "object", "description": "the ids of what was created or changed"},
    },
}
_HEADERS: list[dict[str, object]] = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Becomes the job's id. The same key again is the same job: nothing is applied twice, and what "
        "the first request with a key asked for stands. Printable characters as UTF-8, spaces only inside, not `.` or "
        "`..`; the quotes of a quoted key are not part of it.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "pattern": r"^(?!\.{1,2}$)[!#-~]([ -~]*[!-~])?$",
        },
    },
    {
        "name": "Prefer",
        "in": "header",
        "description": "`wait=5`: answer with the outcome if there is one within so many seconds, at most 30.",
        "schema": {"type": "string"},
        "example": "wait=5",
    },
]


def describe_route(
    job_type: JobType[Any], summary: str, *, named: tuple[str, ...], alternatives: Collection[tuple[str, str]]
) -> dict[str, Any]:
    """Return keyword arguments for the FastAPI decorator of a route that enqueues jobs of *job_type*.

    *named* are the fields that are in the route's path; *alternatives* are pairs of fields of which exactly one is
    given.
    """
    done = status.HTTP_200_OK if named else status.HTTP_201_CREATED
    waited = "With `Prefer: wait`: the outcome. "
    return {
        "summary": summary,
        "status_code": status.HTTP_202_ACCEPTED,
        "response_description": "The job is in the queue (or was, under this key)",
        "responses": {
            202: _json(_ACCEPTED),
            done: {"description": f"{waited}Applied", **_json(_APPLIED)},
            409: {"description": f"{waited}A rule said no; `code` names it", **PROBLEM_SCHEMA},
            422: {"description": "Not valid, or names what is not there; `code` says which", **PROBLEM_SCHEMA},
        },
        "openapi_extra": {
            "requestBody": {"required": True, **_json(_fields(job_type, named, alternatives))},
            "parameters": _HEADERS,
        },
    }


def _fields(
    job_type: JobType[Any], named: tuple[str, ...], alternatives: Collection[tuple[str, str]]
) -> dict[str, object]:
    """Return the JSON schema of the body: the command's, without the fields that are in the path."""
    schema = job_type.command.model_json_schema()
    schema["properties"] = {
        name: _without_null(field) for name, field in schema["properties"].items() if name not in named
    }
    one_of = [
        {"oneOf": [{"required": [name]} for name in pair]}
        for pair in alternatives
        if schema["properties"].keys() >= {*pair}
    ]
    changes = [{"minProperties": 1}] if named else []
    return {**schema, "allOf": [*one_of, *changes]} if one_of or changes else schema


def _without_null(field: dict[str, object]) -> dict[str, object]:
    """Remove a default of null from a field's schema: the field may be omitted, but may not be null."""
    return {name: value for name, value in field.items() if name != "default" or value is not None}


def _json(schema: dict[str, object]) -> dict[str, object]:
    return {"content": {"application/json": {"schema": schema}}}

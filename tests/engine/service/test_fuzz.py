"""Schemathesis against the service's own description: whatever is sent, answers are those that it tells of.

SBLDM_FUZZ sets how many requests each address gets.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.service.app import create_app
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from tests.support.service import bearer, service_of

REQUESTS = int(os.environ.get("SBLDM_FUZZ", "8"))


def test_answers_are_those_that_are_described(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """No answer of 500, none of another form or status than described, and the service is alive after all of it.

    What the schema allows may still contradict itself or the model, and is refused then: that check is left out.
    """
    jobs = tmp_path / "jobs"
    service, _ = service_of(tiny_bundle.path, jobs, rate=1e6, burst=10**6, queue=10**6, client_queue=10**6)
    app, token = create_app(service), bearer(jobs)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=token)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 12
    for operation in operations:

        @settings(max_examples=REQUESTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(headers=token, excluded_checks=[positive_data_acceptance])

        check()
    assert TestClient(app, headers=token).get("/v1/health").json()["status"] == "ok"
    service.__exit__()

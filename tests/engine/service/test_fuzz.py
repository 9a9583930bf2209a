"""Schemathesis against the service's own description: whatever is sent, answers are those that it tells of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.service.app import create_app

from tests.support.service import bearer, service_of


@pytest.fixture(scope="module")
def headers(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, str]]]:
    """An application whose jobs stay queued, and what opens it."""
    jobs = tmp_path_factory.mktemp("fuzz") / "jobs"
    service, _ = service_of(tiny_bundle.path, jobs, rate=1e6, burst=10**6, queue=10**6, client_queue=10**6)
    yield create_app(service), bearer(jobs)
    service.__exit__()


@pytest.fixture(scope="module")
def described(headers: tuple[Any, dict[str, str]]) -> Any:
    app, token = headers
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=token)


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_those_that_are_described(case: Any, headers: tuple[Any, dict[str, str]]) -> None:
    case.call_and_validate(headers=headers[1])


def test_the_service_is_alive_after_all_of_it(headers: tuple[Any, dict[str, str]], tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    app, token = headers
    assert TestClient(app, headers=token).get("/v1/health").json()["status"] == "ok"

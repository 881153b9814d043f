"""Requests that schemathesis draws from the service's own OpenAPI document, fitting it and not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from reliability import scale
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.live_service import LiveService, live_processes
from support.tiny_pair import write_tiny_pair

LIMIT_S = 40.0
NAMES = {"name": "tiny", "version": "1.0.0"}
QUERY = {"pair": "tiny", "version": "1.0.0", "operating_point": "balanced"}
# What comes back is as the document says. What must be accepted it cannot say: most bytes are no image.
CONFORMANCE = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_pair(folder)
    with live_processes(models=folder) as service:
        yield service


def survives(service: LiveService, mode: GenerationMode, n_cases: int) -> None:
    """Send `n_cases` drawn requests; none may fail, hang, or be answered by what the document does not name."""
    document = schemathesis.openapi.from_url(f"{service.url}/docs.json")
    drawn = document.as_strategy(generation_mode=mode)
    if mode is GenerationMode.POSITIVE:  # drawn names are of no pair, and a 404 is all that they would show
        drawn |= document.as_strategy(path_parameters=NAMES, query=QUERY)
    statuses: Counter[int] = Counter()
    (worker,) = service.workers()
    with requests.Session() as session:

        @seed(scale.SEED)
        @settings(
            max_examples=n_cases,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=drawn)
        def send(case: Case) -> None:
            response = case.call(session=session, timeout=LIMIT_S)
            statuses[response.status_code] += 1
            assert response.status_code < 500, case.as_curl_command()
            case.validate_response(response, checks=CONFORMANCE)

        send()
    print(f"\n{statuses.total()} {mode.value} cases by status: {dict(sorted(statuses.items()))}")
    assert service.workers() == [worker]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_some_requests_of_its_document(service: LiveService, mode: GenerationMode) -> None:
    survives(service, mode, 30)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_many_requests_of_its_document(service: LiveService, mode: GenerationMode) -> None:
    survives(service, mode, scale.BODIES // 10)

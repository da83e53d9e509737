"""The service against its own OpenAPI document, by Schemathesis: bounded, and from fixed seeds."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.processes import Server

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 30

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(schemathesis|hypothesis|jsonschema).*"),
]


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/docs.json")


def test_every_operation_answers_as_it_declares(document: Any, server: Server) -> None:
    operations = [result.ok() for result in document.get_all_operations()]
    assert len(operations) >= 20
    calls = 0
    for operation in operations:
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            try:
                cases = operation.as_strategy(generation_mode=mode)
            except Exception as exc:  # nothing to negate in an operation without parameters
                assert "negat" in str(exc).lower(), operation.label
                continue

            @hypothesis.seed(3)
            @hypothesis.settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                derandomize=False,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=cases)
            def check(case: Any) -> None:
                nonlocal calls
                calls += 1
                case.call_and_validate(checks=CHECKS, timeout=20)

            try:
                check()
            except hypothesis.errors.Unsatisfiable:
                assert mode == schemathesis.GenerationMode.NEGATIVE, operation.label
    assert calls > 10 * len(operations)
    assert server.process.poll() is None
    assert "Traceback" not in server.printed()

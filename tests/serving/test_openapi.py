"""The API against its own description, by schemathesis: what the description allows, and what it doesn't, is answered as it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from online_model.serving.options import Options
from tests.processes import PATIENCE_S
from tests.serving.conftest import Site
from tests.serving.http import Running, running

HELD = [content_type_conformance, response_schema_conformance, status_code_conformance]


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[Running]:
    with running(site.settings, Options(timeout_s=PATIENCE_S, most_entities=50)) as made:
        yield made


@pytest.fixture(scope="module")
def api(server: Running) -> Any:
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{server.client.port}/openapi.json")


def check_all(api: Any, examples: int) -> None:
    """Each operation, with what the description allows and with what it doesn't."""
    for found in api.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @hypothesis_settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
            def answered(case: Any) -> None:
                response = case.call()
                # 503 is said where there is no model, or a store that doesn't answer; anything else from 500 on is a fault.
                assert response.status_code < 500 or response.status_code == 503, response.text
                case.validate_response(response, checks=HELD)

            # Nothing can be wrong where nothing is asked for.
            with suppress(Unsatisfiable):
                answered()


def test_every_operation_answers_as_it_is_described(api: Any) -> None:
    check_all(api, 10)


@pytest.mark.soak
def test_the_same_for_long(api: Any) -> None:
    check_all(api, 1_000)

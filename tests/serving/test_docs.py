"""docs/serving.md names what there is: every metric, option, field and path."""

from __future__ import annotations

import re
from pathlib import Path

from flows.settings import Settings
from online_model.serving.app import make_app
from online_model.serving.command import serve
from online_model.serving.metrics import NOT_ENCODED, QUEUE_FULL, STOPPED, Metrics
from online_model.serving.options import Options
from online_model.serving.rank_metrics import PARTS, REASONS
from online_model.serving.rank_schema import RankRequest
from online_model.serving.schema import BatchRequest, GetQuery
from online_model.serving.service import Service
from tests.processes import ROOT

PAGE = (ROOT / "docs" / "serving.md").read_text("utf-8")


def test_metrics() -> None:
    there = {family.name for family in Metrics().registry.collect() if family.name.startswith("tidemark_")}
    told = set(re.findall(r"\btidemark_serv[a-z_]+?(?=_total\b|\b)", PAGE))
    assert told == there
    assert all(f"`{reason}`" in PAGE for reason in (QUEUE_FULL, NOT_ENCODED, STOPPED, *REASONS, *PARTS))


def test_options() -> None:
    names = {option for parameter in serve.params for option in parameter.opts}
    # Those that every command has may be there already.
    assert names - {"--data", "--config"} - set(re.findall(r"--[a-z-]+[a-z]", PAGE)) == set()


def test_fields_and_paths(tmp_path: Path) -> None:
    for field in set(GetQuery.model_fields) | set(BatchRequest.model_fields) | set(RankRequest.model_fields):
        assert field in PAGE
    service = Service(Settings(data=tmp_path), Options())
    for path in make_app(service).openapi()["paths"]:
        assert path in PAGE
    service.close()

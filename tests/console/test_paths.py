"""The console's paths: what they say is what serving says, nothing of it is kept as served, and nothing that was ingested can become markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import TypeAdapter

from flows.features import PIN_COUNTERS, TOPIC_STATS, USER_COUNTERS
from flows.reading import FeatureReader
from flows.settings import Settings
from online_model.serving.app import make_app
from online_model.serving.options import Options
from online_model.serving.service import Service
from replay.console import console as paths
from replay.console.attention import Attention
from replay.console.console import FILES, Console, Now
from replay.console.lookup import Looked
from tests.console.conftest import HOSTILE, Site
from tests.processes import ROOT
from tests.serving.http import Running, running, served

PLACE = Path(paths.__file__).parent


def features(found: dict[str, Any]) -> dict[str, float]:
    return {name: value for row in found["rows"] for name, value in zip(row["features"], row["values"], strict=True)}


def test_a_user_is_what_is_served(shared: Site, server: Running) -> None:
    with FeatureReader(shared.settings) as reader:
        entities = sorted({int(row) for p in range(2) for rows in reader.user_slices(p, 2**60) for row in rows.sequences[:, 0]})
    assert len(entities) > 10
    for user in [*entities, 12345, HOSTILE, "007"]:
        name = quote(str(user), safe="")
        found = server.client.get(f"/v1/console/user/{name}")
        want = server.client.get(f"/v1/features/user/{name}")
        assert (found["asked"], found["id"], found["found"], found["as_of"]) == (
            str(user),
            str(want["user_id"]),
            want["found"],
            want["as_of"],
        )
        assert features(found) == want["counters"]
        assert set(features(found)) == set(USER_COUNTERS)
        assert [{**entry, "pin_id": int(entry["pin_id"])} for entry in found["sequence"]] == want["sequence"]
        assert found["position"] == want["positions"]["actions"][found["partition"]]


def test_pins_and_topics_are_what_is_served(shared: Site, server: Running) -> None:
    with FeatureReader(shared.settings) as reader:
        pins = sorted({int(row[0]) for rows in reader.pin_rows(reader.default_as_of() or 0) for row in rows})
        topics, _ = reader.all_topics(reader.default_as_of() or 0)
    assert len(pins) > 5
    assert topics
    known = []
    for pin in [*pins[:20], 12345]:
        found, want = (server.client.get(f"/v1/{kind}/pin/{pin}") for kind in ("console", "features"))
        assert features(found) == want["counters"]
        assert set(features(found)) == set(PIN_COUNTERS)
        assert found["position"] == want["positions"]["revisits"][found["partition"]]
        known.append(found["found"])
    assert known == [True] * (len(known) - 1) + [False]
    for topic in [*topics, "there is none"]:
        name = quote(topic, safe="")
        found, want = (server.client.get(f"/v1/{kind}/topic/{name}") for kind in ("console", "features"))
        assert features(found) == want["statistics"]
        assert set(features(found)) == {name for name, _ in TOPIC_STATS}
        assert (found["found"], found["id"], found["partition"]) == (want["found"], None, None)


def test_what_is_looked_up_is_not_served(shared: Site, site: Site) -> None:
    with running(site.settings, make_beside=Console) as made:
        for path in ("user/1", "pin/1", "topic/food"):
            made.client.get(f"/v1/console/{path}")
        made.client.get("/v1/console")
    assert sum(len(rows) for rows in served(site.settings)) == 0


@pytest.mark.parametrize("path", ["user/", "pin/", "topic/", "user/" + "x" * 2_001])
def test_what_cannot_be_meant_is_refused(server: Running, path: str) -> None:
    refusal = server.client.get(f"/v1/console/{path}", 422)
    assert refusal["error"]
    assert refusal["what_to_do"]


def test_answers_are_as_the_schema_says(server: Running, shared: Site) -> None:
    now = TypeAdapter(Now).validate_json(server.client.ask("GET", "/v1/console").body, strict=True)
    assert now.data == shared.settings.data.name
    assert all(getattr(now, name).problem is None for name in ("flows", "letters", "requests", "models", "checks", "replays"))
    TypeAdapter(Looked).validate_json(server.client.ask("GET", "/v1/console/user/3").body, strict=True)
    described = server.client.get("/openapi.json")
    assert {"/v1/console", "/v1/console/user/{id}"} <= set(described["paths"])
    content = described["paths"]["/v1/console"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert content["$ref"].endswith("/Now")
    assert {"flows", "letters", "attention"} <= set(described["components"]["schemas"]["Now"]["properties"])


def test_requests_are_counted(site: Site) -> None:
    with running(site.settings, make_beside=Console) as made:
        for _ in range(3):
            made.client.get("/v1/features/user/1")
        made.client.get("/nothing", 404)
        made.client.get("/v1/console")
        said = made.client.get("/v1/console")["requests"]["said"]
        assert {one["endpoint"]: (one["requests"], one["failed"]) for one in said["endpoints"]} == {"user": (3, 0), "other": (1, 0)}
        assert (said["trouble"], said["lost"], said["log_trouble"]) == (None, 0, None)
        assert made.client.metric('tidemark_serving_requests_total{endpoint="console",status="200"}') >= 1


def test_beside_nothing_it_says_so_in_words(tmp_path: Path) -> None:
    with running(Settings(data=tmp_path, partitions=2), make_beside=Console) as made:
        said = made.client.get("/v1/console")
        assert said["flows"]["said"]["source"] == "nothing"
        assert "tidemark retrain" in said["models"]["said"]["note"]
        assert said["checks"]["said"] == {"audit": None, "skew": None}
        assert (said["replays"]["said"]["work"], said["replays"]["said"]["corrections"]) == ([], [])
        whats = [one["what"] for one in said["attention"] if one["section"] == "flows"]
        assert whats == ["nothing has been applied yet; `tidemark run` applies what the log holds"]
        refusal = made.client.get("/v1/console/user/1", 503)
        assert "there is no log 'actions'" in refusal["error"]
    assert list(tmp_path.iterdir()) == []


# The page --------------------------------------------------------------------------------------------------------------------------


def test_the_page_may_do_nothing_but_what_is_its_own(server: Running) -> None:
    assert server.client.ask("GET", "/").headers["location"] == "/console"
    for path, kind in {"/console": FILES["console.html"], **{f"/console/{name}": kind for name, kind in FILES.items()}}.items():
        reply = server.client.ask("GET", path)
        assert reply.status == 200
        assert reply.headers["content-type"] == kind
        policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert reply.headers["x-content-type-options"] == "nosniff"
    for path in ("/v1/console", "/v1/console/user/3"):
        reply = server.client.ask("GET", path)
        assert (reply.headers["x-content-type-options"], reply.headers["cache-control"]) == ("nosniff", "no-store")
        assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "path", ["/console/console.py", "/console/../console.py", "/console/%2e%2e/console.py", "/console/", "/console//etc/passwd"]
)
def test_no_other_file_is_found(server: Running, path: str) -> None:
    assert server.client.ask("GET", path).status == 404
    assert server.client.ask("POST", "/console").status == 405


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_has_no_markup_that_runs_and_loads_nothing_from_elsewhere() -> None:
    parser = _Tags()
    parser.feed((PLACE / "console.html").read_text("utf-8"))
    for tag, attributes in parser.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href"):
            assert re.match(r"/console/|#", attributes.get(name) or "#"), (tag, attributes)
        assert tag != "style"
        assert tag != "script" or attributes["type"] == "module"
    for name in FILES:
        text = (PLACE / name).read_text("utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|DOMParser", text), name
        assert not [url for url in re.findall(r"https?://[^\s\"')]+", text) if not url.startswith("http://www.w3.org/")], name


def test_the_document_names_what_there_is(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "console.md").read_text("utf-8")
    service = Service(Settings(data=tmp_path), Options())
    console = Console(service)
    with_it, without = (set(make_app(service, beside).openapi()["paths"]) for beside in (console, None))
    console.close()
    service.close()
    assert len(with_it - without) == 4
    assert all(path in page for path in with_it - without)
    headings = {
        heading.strip() for heading in re.findall(r"<h2 id=\"[a-z]+-title\">([^<]+)</h2>", (PLACE / "console.html").read_text("utf-8"))
    }
    assert len(headings) == 7
    assert all(f"**{heading}**" in page for heading in headings)
    assert Attention.__doc__

"""`tidemark evaluate scores`: what it says, what it refuses, and its page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from online_model.evaluation.bootstrap import LEVEL, POWER
from online_model.evaluation.metrics import METRICS, measure
from online_model.evaluation.ordered import BINS
from online_model.evaluation.scores_command import scores
from online_model.evaluation.slices import AGE_DAYS, MOST_TOPICS
from online_model.evaluation.user_sums import LEAST
from tests.conftest import Chromium
from tests.evaluation.making import columns, rows_of, write
from tests.processes import Ended, refused, tidemark
from tests.test_report import image

Table = dict[str, np.ndarray]


def evaluated(tmp_path: Path, *arguments: object, code: int = 0) -> Ended:
    return tidemark("evaluate", "scores", *arguments, data=tmp_path / "none", code=code)


def refusal(tmp_path: Path, *arguments: object) -> str:
    return refused("evaluate", "scores", *arguments, data=tmp_path / "none")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "good.parquet", columns(21, scores=0, noise=0.2))


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """The same rows, in another order and scored with more noise."""
    return write(tmp_path / "bad.parquet", columns(21, scores=1, noise=2.0))


def test_json_is_what_the_metrics_are(tmp_path: Path, good: Path) -> None:
    said = evaluated(tmp_path, good, "--json").json()
    for head, found in measure(rows_of(columns(21, scores=0, noise=0.2))).items():
        assert said["scores"]["heads"][head]["positives"] == found.positives
        for name, one in found.metrics.items():
            assert said["scores"]["heads"][head]["metrics"][name]["value"] == pytest.approx(one.value), name
    assert said["scores"]["ranked_by"] == "head"
    assert "comparison" not in said


def test_a_better_scoring_is_found_to_be_better(tmp_path: Path, good: Path, bad: Path) -> None:
    said = evaluated(tmp_path, good, "--against", bad, "--resamples", 300, "--json").json()
    found = said["comparison"]["differences"]["save"]
    assert found["auc"]["verdict"] == found["logloss"]["verdict"] == "better"
    assert found["calibration"]["verdict"] == "differs"
    assert found["auc"]["difference"] == pytest.approx(
        said["scores"]["heads"]["save"]["metrics"]["auc"]["value"] - said["against"]["heads"]["save"]["metrics"]["auc"]["value"]
    )
    assert 0 < found["auc"]["minimum_detectable_effect"] < 0.2
    assert (said["comparison"]["seed"], said["comparison"]["resamples"]) == (0, 300)
    again = evaluated(tmp_path, good, "--against", bad, "--resamples", 300, "--json").json()
    assert again == said
    assert evaluated(tmp_path, good, "--against", bad, "--resamples", 300, "--seed", 1, "--json").json() != said


def test_the_terminal_says_it_too(tmp_path: Path, good: Path, bad: Path) -> None:
    told = evaluated(tmp_path, good, "--against", bad, "--resamples", 200, "--by", "topic").out
    value = measure(rows_of(columns(21, scores=0, noise=0.2)))["save"].metrics["auc"].value
    for word in (f"{value:.4f}", "good.parquet less bad.parquet", "better", "differs", "房间", "seed 0", *METRICS):
        assert word in told


def test_it_fails_where_it_is_worse_by_more_than_chance(tmp_path: Path, good: Path, bad: Path) -> None:
    options = ("--resamples", 200, "--fail-if-worse", "save:auc", "--fail-if-worse", "hide:logloss")
    assert (
        "worse than good.parquet by more than chance: save:auc, hide:logloss"
        in evaluated(tmp_path, bad, "--against", good, *options, code=1).err
    )
    evaluated(tmp_path, good, "--against", bad, *options)
    evaluated(tmp_path, good, "--against", good, *options)


def test_a_column_score_ranks_requests(tmp_path: Path) -> None:
    table = columns(21)
    score = np.random.default_rng(0).normal(0, 9, len(table["pin_id"]))
    path = write(tmp_path / "scored.parquet", table | {"score": score})
    said = evaluated(tmp_path, path, "--json").json()["scores"]
    wanted = measure(rows_of(table, score))["save"].metrics
    assert said["ranked_by"] == "score"
    assert said["heads"]["save"]["metrics"]["hit@3"]["value"] == pytest.approx(wanted["hit@3"].value)
    by_head = evaluated(tmp_path, path, "--rank-by-head", "--json").json()["scores"]
    assert by_head["heads"]["save"]["metrics"]["hit@3"]["value"] == pytest.approx(measure(rows_of(table))["save"].metrics["hit@3"].value)


def test_types_that_mean_the_same(tmp_path: Path, good: Path) -> None:
    table = pq.read_table(good)
    said = evaluated(tmp_path, good, "--json").json()
    unknown = pa.array([None if label < 0 else bool(label) for label in table.column("label_save").to_pylist()])
    other = (
        table.set_column(table.schema.get_field_index("label_save"), "label_save", unknown)
        .set_column(3, "request_time", table.column("request_time").cast(pa.timestamp("ms", "UTC")).cast(pa.timestamp("us", "UTC")))
        .set_column(1, "request_id", table.column("request_id").dictionary_encode())
    )
    pq.write_table(other, good, row_group_size=100)
    assert evaluated(tmp_path, good, "--json").json() == said


def test_names_are_taken_as_they_are(tmp_path: Path) -> None:
    table = columns(21)
    for kind in ("label", "score"):
        table[f"{kind}_[/b]<i>$x$"] = table.pop(f"{kind}_save")
    table["topic"] = np.where(table["topic"] == "cats", "[/red]\x1b[31m", table["topic"])
    path = write(tmp_path / "[odd].parquet", table)
    told = evaluated(tmp_path, path, "--against", path, "--resamples", 100, "--by", "topic", "--html", tmp_path / "odd.html").out
    assert "[odd].parquet, ranked" in told
    assert "[/b]<i>$x$" in told
    assert "[/red]\ufffd[31m" in told
    ElementTree.fromstring((tmp_path / "odd.html").read_text().removeprefix("<!DOCTYPE html>\n"))


def test_columns_of_nulls_alone(tmp_path: Path, good: Path) -> None:
    table = pq.read_table(good)
    for name in ("topic", "label_save"):
        table = table.set_column(table.schema.get_field_index(name), name, pa.nulls(len(table)))
    pq.write_table(table, good)
    said = evaluated(tmp_path, good, "--json").json()["scores"]
    assert said["topics"] == said["heads"]["save"]["rows"] == 0
    assert said["heads"]["hide"]["rows"] > 0


def test_columns_that_lack_their_other_half_are_named(tmp_path: Path) -> None:
    table = columns(21)
    table["label_click"] = table["label_save"]
    path = write(tmp_path / "half.parquet", table | {"score_buy": table["score_save"]})
    assert evaluated(tmp_path, path, "--json").json()["left_out"] == ["label_click", "score_buy"]
    assert "left out, for want of a label or a score: label_click, score_buy" in evaluated(tmp_path, path).out


def test_without_a_positive_json_has_null_and_the_reason(tmp_path: Path) -> None:
    table = columns(21)
    table["label_save"] = np.zeros_like(table["label_save"])
    path = write(tmp_path / "none.parquet", table)
    found = evaluated(tmp_path, path, "--json")
    assert "NaN" not in found.out
    metrics = found.json()["scores"]["heads"]["save"]["metrics"]
    for name in ("ndcg@3", "auc", "gauc", "calibration"):
        assert metrics[name]["value"] is None
        assert metrics[name]["reason"] == "no row is positive"
    assert "save has no auc: no row is positive" in evaluated(tmp_path, path).out


def test_one_user(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.parquet", columns(21, users=1, requests=30, scores=i)) for i in range(2)]
    found = evaluated(tmp_path, paths[0], "--against", paths[1], "--html", tmp_path / "one.html", "--json").json()
    one = found["comparison"]["differences"]["save"]["auc"]
    assert one["low"] is one["p_value"] is one["minimum_detectable_effect"] is None
    assert "one user" in one["reason"]
    assert one["verdict"] == "unknown"
    ElementTree.fromstring((tmp_path / "one.html").read_text().removeprefix("<!DOCTYPE html>\n"))


Change = Callable[[Table], Table]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: {name: values[:0] for name, values in table.items()}, "there are no rows"),
        (
            lambda table: {name: table[name] for name in ("user_id", "label_save", "score_save")},
            "lacks request_id, pin_id, request_time; it has",
        ),
        (
            lambda table: {name: values for name, values in table.items() if "_save" not in name and "_hide" not in name},
            "lacks label_HEAD with",
        ),
        (lambda table: table | {"score_save": np.where(table["pin_id"] % 9 == 0, np.nan, table["score_save"])}, "score_save: nan in row"),
        (lambda table: table | {"score_save": table["score_save"] * 3}, "give probabilities within 0 and 1"),
        (lambda table: table | {"label_save": table["label_save"] + 1}, "label_save: 2 in row"),
        (lambda table: table | {"pin_id": table["pin_id"] * 0}, "more than once"),
        (lambda table: table | {"user_id": table["user_id"] + 0.5}, "user_id is of type double; give whole numbers"),
        (lambda table: table | {"label_save": table["label_save"] * 0.5}, "label_save is of type double; give 0, 1, or -1"),
        (lambda table: table | {"score_save": table["request_id"]}, "score_save is of type string; give numbers"),
        (lambda table: table | {"request_time": table["request_time"] * 1000}, "which is no time in ms since 1970"),
        (lambda table: table | {"request_time": -table["request_time"]}, "which is no time in ms since 1970"),
        (lambda table: table | {"request_id": table["score_save"]}, "request_id is of type float; give texts"),
    ],
)
def test_a_file_that_can_not_be_evaluated(tmp_path: Path, change: Change, said: str) -> None:
    path = write(tmp_path / "wrong.parquet", change(columns(21)))
    assert said in (told := refusal(tmp_path, path))
    assert str(path) in told


def test_what_is_no_file_of_scores(tmp_path: Path, good: Path) -> None:
    (tmp_path / "text.parquet").write_text("hello")
    assert "can't read scored rows" in refusal(tmp_path, tmp_path / "text.parquet")
    assert "can't read scored rows" in refusal(tmp_path, tmp_path / "nowhere.parquet")
    null = pq.read_table(good).set_column(0, "user_id", pa.nulls(1440, pa.int64()))
    pq.write_table(null, tmp_path / "null.parquet")
    assert "user_id is null in 1,440 rows; give it in every row" in refusal(tmp_path, tmp_path / "null.parquet")
    other = write(tmp_path / "other.parquet", columns(22))
    assert "not of the same rows" in refusal(tmp_path, good, "--against", other)
    assert "there is no directory" in refusal(tmp_path, good, "--html", tmp_path / "no" / "page.html")
    assert "there is no head 'buy' in both" in refusal(tmp_path, good, "--against", good, "--fail-if-worse", "buy:auc")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fail-if-worse", "save:auc"), "give --against FILE2"),
        (("--fail-if-worse", "save:best"), "is no HEAD:METRIC"),
        (("--fail-if-worse", "save:calibration"), "is no HEAD:METRIC"),
        (("--by", "topic", "--metric", "hit@3"), "by topic there is no hit@3"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, good: Path, arguments: tuple[str, ...], said: str) -> None:
    done = evaluated(tmp_path, good, *arguments, code=2)
    assert said in " ".join(done.err.split())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("page")
    good, bad = (write(directory / f"{i}.parquet", columns(21, scores=i, noise=noise)) for i, noise in enumerate((0.2, 2.0)))
    evaluated(directory, good, "--against", bad, "--resamples", 200, "--html", directory / "page.html", "--json")
    return directory / "page.html"


def test_the_page_says_what_the_command_says(tmp_path: Path, page: Path, good: Path, bad: Path) -> None:
    content = page.read_text()
    said = json.loads(evaluated(tmp_path, good, "--against", bad, "--resamples", 200, "--json").out)
    for head in ("save", "hide"):
        one: dict[str, Any] = said["comparison"]["differences"][head]["auc"]
        for value in (f"{one['value']:.4f}", f"{one['difference']:+.5f}".replace("-", "−"), f"{one['minimum_detectable_effect']:.5f}"):
            assert value in content
    for heading in ("Metrics", "Differences", "Reliability", "Over time", "By topic", "By age of the user"):
        assert f">{heading}</h2>" in content


def test_the_page_needs_nothing_else(page: Path) -> None:
    content = page.read_text()
    ElementTree.fromstring(content.removeprefix("<!DOCTYPE html>\n"))
    assert "<script" not in content
    assert not re.findall(r"(?:src|href)=\"(?!#|data:,)", content)
    ids = re.findall(r'\bid="([^"]+)"', content)
    assert len(ids) == len(set(ids))


def test_a_page_of_little(tmp_path: Path) -> None:
    table = {name: values[:3] for name, values in columns(21, users=1).items() if name != "topic"}
    table["label_save"][:], table["label_hide"][:] = -1, 0
    path = write(tmp_path / "little.parquet", table)
    evaluated(tmp_path, path, "--html", tmp_path / "little.html")
    content = (tmp_path / "little.html").read_text()
    ElementTree.fromstring(content.removeprefix("<!DOCTYPE html>\n"))
    assert "save has no auc: no label is known." in content
    assert "No row has a topic." in content


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_in_a_browser(page: Path, chromium: Chromium, width: int) -> None:
    opened = chromium(page, width=width, height=2400)
    assert opened.console == ()
    assert opened.dom.count('role="img"') == 12
    pixels = image(opened.screenshot)
    assert pixels.shape[1] == width
    # Text and plots all the way down, and nothing that runs over the right edge.
    background = pixels[2, 2]
    marked = (np.abs(pixels.astype(int) - background.astype(int)).sum(axis=2) > 30).reshape(8, 300, width)
    assert (marked.mean(axis=(1, 2)) > 0.005).all()
    assert not marked[:, :, width - 4 :].any()
    # Plots have their colours, of light or of dark.
    assert sum(int((pixels == colour).all(axis=2).sum()) for colour in ((0x1C, 0x72, 0x93), (0x57, 0xB3, 0xD1))) > 1_000


DOCS = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")


def test_docs_name_every_metric_option_and_number() -> None:
    for name in METRICS:
        assert f"`{name}`" in DOCS
    plain = {"--json", "--help", "--data", "--config"}
    options = {option for parameter in scores.params if isinstance(parameter, click.Option) for option in parameter.opts}
    assert {option for option in options - plain if f"`{option}" not in DOCS} == set()
    for said in (f"**{BINS}** bins", f"{MOST_TOPICS} topics", f"{AGE_DAYS[-1]} days", "1e-7", "95 %", "80 %"):
        assert said in DOCS, said
    assert (LEAST, LEVEL, POWER) == (1e-7, 0.95, 0.80)

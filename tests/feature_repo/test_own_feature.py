"""A feature of one's own, added to a copy of the feature repository by what docs/add-a-feature.md says, word for word."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from feature_repo.repository import REPOSITORY
from flows.features import USER_COUNTERS
from flows.settings import Settings
from tests import driving
from tests.feature_repo.test_commands import environment
from tests.oracles.decide import decide
from tests.oracles.features import counters, default_as_of
from tests.point_in_time.asking import Oracle
from tests.processes import tidemark
from tests.strategies import random_stream

PAGE = Path(__file__).parents[2] / "docs" / "add-a-feature.md"
FILE, CODE = re.search(r"`feature_repo/(\w+\.py)`\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL).groups()  # type: ignore[union-attr]
PARTITIONS = 2
# What the page says to do, in one process: most of what each takes is its imports.
FOLLOWED = """
import json, sys
from click.testing import CliRunner
import feature_repo
from feast import FeatureStore
from feast.cli.cli import cli
for arguments in (["apply"], ["on-demand-feature-views", "list"]):
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    listed = done.stdout
rows = [{"user_id": user} for user in json.loads(sys.argv[1])]
values = FeatureStore(".").get_online_features(["user_click_share:click_share_7d"], rows).to_dict()
print(json.dumps([listed, values["click_share_7d"]]))
"""


def followed(data: Path, repository: Path, users: list[int]) -> Any:
    """Feast's list of on-demand views, and the feature of some users online."""
    done = subprocess.run(
        [sys.executable, "-c", FOLLOWED, json.dumps(users)],
        cwd=repository,
        env=environment(data, TIDEMARK_PARTITIONS=str(PARTITIONS)),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def share(of: dict[str, int]) -> float:
    clicks, impressions = (of[f"revisits_{kind}_all_7d_count"] for kind in ("click", "impression"))
    return clicks / (clicks + impressions) if clicks + impressions else 0.0


def test_a_feature_that_is_added_by_the_page_is_the_same_online_and_offline_as_a_plain_loop_says(tmp_path: Path) -> None:
    events = random_stream(3, 2_000, PARTITIONS, users=20, pins=30, days=30)
    decided = decide(events, partitions=PARTITIONS)
    settings = Settings(data=tmp_path / "data", partitions=PARTITIONS)
    driving.write(settings, events, np.random.default_rng(0))
    driving.apply(settings, np.random.default_rng(0))
    repository = tmp_path / "feature_repo"
    shutil.copytree(REPOSITORY, repository, ignore=shutil.ignore_patterns("__pycache__"))
    (repository / FILE).write_text(CODE)
    users = sorted(events["user_id"].unique().tolist())
    as_of = default_as_of(decided)
    of = counters(decided, "user", as_of).to_dict("index")
    listed, online = followed(settings.data, repository, [*users, 987])
    assert "user_click_share" in listed
    assert online == [*(share(of[user]) if user in of else 0.0 for user in users), 0.0]
    assert len(set(online)) > 2

    rng = np.random.default_rng(1)
    times = rng.choice(events["event_time"][~events["bad"]].to_numpy(), 60)
    asked = pd.DataFrame({"user_id": rng.choice(users, 60), "event_timestamp": pd.to_datetime(times, unit="ms", utc=True)})
    asked.to_parquet(tmp_path / "seen.parquet")
    arguments = ("features", "history", "--entities", tmp_path / "seen.parquet", "--feature", "user_click_share")
    tidemark(*arguments, "--out", tmp_path / "training.parquet", data=settings.data, partitions=PARTITIONS)
    offline = pq.read_table(tmp_path / "training.parquet").column("click_share_7d").to_pylist()
    oracle = Oracle(decided)
    rows = [oracle.user(user, time - 1, time)[1] for user, time in zip(asked["user_id"], times.tolist(), strict=True)]
    assert offline == [share(dict(zip(USER_COUNTERS, row, strict=True))) for row in rows]
    assert len(set(offline)) > 2

"""A retrain from beginning to end: plan, train, judge, publish, catch up, switch. Whatever stops it, what was served before is served on.

The new base is a function of the offline store, the last full base and the request. Of the online learner's work nothing is read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from flows.directories import translated
from flows.errors import CorruptionError, FingerprintError
from flows.examples.store import Examples, Fingerprints, Once, open_examples
from flows.run.display import moment
from flows.settings import DAY_MS, Settings
from online_model.learner.config import LearnerConfig
from online_model.learner.course import read_course
from online_model.model.config import ModelConfig
from online_model.model.dense import load_dense
from online_model.model.embedding_input import TakenEmbedding, taken_of
from online_model.model.ranker import Ranker
from online_model.model.served_vectors import ServedVectors
from online_model.registry import durable
from online_model.registry.bases import Base
from online_model.registry.errors import DamagedModelError
from online_model.registry.manifest import DENSE, MANIFEST, Build, Described, FileEntry, Manifest
from online_model.registry.registry import Registry
from online_model.retrain.fingerprints import AnyFingerprint, known_vocabularies
from online_model.retrain.gate import Judged, judge
from online_model.retrain.plan import Planned, Request, incumbent_of, planned
from online_model.retrain.reading import read_window, refuse_empty
from online_model.retrain.shadow import Told, switch_to
from online_model.retrain.sides import Model
from online_model.retrain.spans import Spans, learned_by
from online_model.retrain.work import Work
from online_model.table import EmbeddingTable, TableConfig
from online_model.training.config import TrainingConfig
from online_model.training.optimizer import OPTIMIZER
from online_model.training.tables import Tables
from online_model.training.train import Start, Trained, train

_TRAINED, _JUDGED, _PUBLISHED = "trained.json", "judged.json", "published.json"
REFUSED = "refused"
EXPIRE_DAYS = 90
"""An ID that was not seen for so long loses its row when a full retrain begins, as it does online."""


@dataclass(frozen=True)
class Outcome:
    """What became of a retrain.

    Attributes
    ----------
    as_of : int
    spans : Spans
    parent, incumbent : int or None
        The base that it began from, and the one that it was compared with.
    resumed : bool
        It went on with one that was stopped.
    passed : bool
    reason : str
        Of the gate.
    base : int or None
        The new base; None: it was refused, and lies in `refused`.
    refused : Path or None
    metrics : dict
        As in the manifest.
    note : str
        What else should be known; else empty.
    """

    as_of: int
    spans: Spans
    parent: int | None
    incumbent: int | None
    resumed: bool
    passed: bool
    reason: str
    base: int | None
    refused: Path | None
    metrics: dict[str, Any]
    note: str


def retrain(
    settings: Settings,
    request: Request,
    as_of: int,
    go_on: bool,
    now: Callable[[], int],
    memory_bytes: int,
    told: Told = lambda stage, done, total: None,
) -> Outcome:
    """Do it.

    Parameters
    ----------
    settings : Settings
    request : Request
    as_of : int
        The moment, ms.
    go_on : bool
        Whether one of an earlier moment that was stopped is gone on with; one of this moment always is.
    now : callable
        The moment of the switch, ms, as it is remembered; decides nothing else.
    memory_bytes : int
        What the columns of the window's examples may take.
    told : callable
        Told of each stage how much is done, and of how much.

    Raises
    ------
    NoParentError, EmptyWindowError, ExamplesTooLargeError
    LockedError
        Another retrain is at work.
    TrainingStoppedError
        The process was asked to stop; the same call goes on.
    """
    registry, examples = Registry.of(settings), open_examples(settings)
    work = Work(registry)
    try:
        with work.alone():
            return _Retrain(settings, registry, examples, work, request, memory_bytes, told).run(as_of, go_on, now)
    finally:
        examples.close()


def unfinished(settings: Settings) -> int | None:
    """The moment, ms, of a retrain that was begun and stopped; None if there is none."""
    plan = Work(Registry.of(settings)).plan()
    return None if plan is None else int(plan["spans"]["as_of"])


class _Retrain:
    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        examples: Examples,
        work: Work,
        request: Request,
        memory_bytes: int,
        told: Told,
    ) -> None:
        self._settings, self._registry, self._examples, self._work = settings, registry, examples, work
        self._request, self._memory_bytes, self._told = request, memory_bytes, told
        self._fingerprint = registry.bases.expected.features
        self._every = AnyFingerprint(settings.load_vocabulary(), known_vocabularies(registry)) if request.any_fingerprint else None

    def run(self, as_of: int, go_on: bool, now: Callable[[], int]) -> Outcome:
        plan, resumed = self._plan(as_of, go_on)
        spans = plan.spans
        trained = self._trained(plan, spans)
        judged = self._judged(plan, spans, trained)
        about = self._about(plan, spans, trained, judged)
        base, refused = None, None
        if judged.passed:
            published = self._published(about)
            switch_to(self._settings, self._registry, published, self._examples, self._config(plan), now(), self._told)
            base = published.number
        else:
            refused = self._refused(about)
        self._work.end()
        return Outcome(
            spans.as_of,
            spans,
            _number(plan.parent),
            _number(plan.incumbent),
            resumed,
            judged.passed,
            judged.reason,
            base,
            refused,
            dict(about.metrics),
            plan.note,
        )

    def _plan(self, as_of: int, go_on: bool) -> tuple[Planned, bool]:
        """What to do, and whether it was begun before; then by the spans of then."""
        begun = self._work.plan()
        incumbent, note = incumbent_of(self._registry, self._request.from_scratch)
        parent = None if self._request.from_scratch else incumbent
        asked = _plain({"request": asdict(self._request), "parent": _digest(parent), "incumbent": _digest(incumbent)})
        if begun is not None:
            spans = Spans.from_dict(begun["spans"])
            if {name: begun.get(name) for name in asked} == asked and (go_on or spans.as_of == as_of):
                return Planned(spans, parent, incumbent, note), True
            if self._work.has(_PUBLISHED):
                self._registry.withdraw(self._work.read(_PUBLISHED)["base"])
            self._work.end()
        plan = planned(self._registry, self._examples, self._request, as_of)
        self._work.begin(asked | {"spans": asdict(plan.spans)})
        return plan, False

    def _trained(self, plan: Planned, spans: Spans) -> Trained:
        work = self._work
        if work.has(_TRAINED):
            said = work.read(_TRAINED)
            if work.files() != said.pop("files"):
                raise CorruptionError(
                    f"retrain: the draft {work.draft} is not what was written; delete {work.directory} and retrain from the beginning"
                )
            return Trained(draft=work.draft, build=Build(**said.pop("build")), **said)
        work.clear_draft()
        taken = self._taken(plan)
        vectors = None if taken is None else ServedVectors(self._settings.data, taken)
        window = self._read(spans.begin, spans.learned, vectors)
        examples = refuse_empty(window, f"between {_described(spans, plan)}")
        fingerprints = sorted(self._every.taken) if self._every is not None else []
        held_out = self._read(spans.learned, spans.calibrated, vectors)
        self._refuse_others_behind(spans)
        start, config = self._start(plan, spans, taken)
        trained = train(
            start, examples, held_out, config, work.draft, work.checkpoints, lambda done, total: self._told("training", done, total)
        )
        columns = examples.columns.nbytes() + examples.labels.nbytes + examples.seen_at.nbytes
        trained.metrics["bytes_per_example"] = round(columns / len(examples))
        if fingerprints:
            trained.metrics["fingerprints"] = fingerprints
        if taken is not None:
            trained.config.update(taken.to_config())
        kept = {name: getattr(trained, name) for name in ("config", "feature_fingerprint", "metrics")}
        work.write(_TRAINED, kept | {"build": asdict(trained.build), "files": work.files()})
        return trained

    def _read(self, begin: tuple[int, ...], end: tuple[int, ...], vectors: ServedVectors | None) -> Any:
        def told(done: int, total: int) -> None:
            self._told("reading", done, total)

        if any(low > high for low, high in zip(begin, end, strict=True)):
            return None
        try:
            return read_window(self._examples, begin, end, self._fingerprint, self._memory_bytes, told, self._every, vectors)
        except FingerprintError as error:
            if self._every is not None:
                raise
            raise FingerprintError(f"{error}, or take them all the same: --any-fingerprint") from error

    def _refuse_others_behind(self, spans: Spans) -> None:
        """Before all the work: the new base is learned on from where its window ends, and that takes examples of one fingerprint only."""
        if self._every is not None:
            for partition, low in enumerate(spans.learned):
                checked = Fingerprints(self._fingerprint)
                for stretch in Once(self._examples, partition, low).until(self._examples.end_position(partition)):
                    checked.check(stretch.rows, partition)

    def _taken(self, plan: Planned) -> TakenEmbedding | None:
        """Which user embeddings the new base takes."""
        if plan.parent is not None:
            return TakenEmbedding.of(plan.parent.manifest.about.config, f"base {plan.parent.number}")
        version = self._request.user_embedding
        return None if version is None else taken_of(self._settings.data, version)

    def _start(self, plan: Planned, spans: Spans, taken: TakenEmbedding | None) -> tuple[Start, TrainingConfig]:
        request, parent = self._request, plan.parent
        if parent is None:
            of_version = {} if taken is None else {"user_embedding": taken.dim}
            config = ModelConfig.from_dict({"seed": request.seed} | dict(request.model) | of_version)
            tables = Tables(*(EmbeddingTable(TableConfig(config.dim, **request.table)) for _ in range(2)))
            return Start(Ranker(config), tables), TrainingConfig(**{"seed": request.seed} | dict(request.training))
        config = ModelConfig.from_dict(parent.manifest.about.config["model"])
        training = TrainingConfig(**dict(parent.manifest.about.config["training"]) | {"seed": request.seed})
        tables = Tables.load(parent.path)
        for table in (tables.users, tables.pins):
            table.expire(spans.learned_until - EXPIRE_DAYS * DAY_MS)
            # What was said of earlier changes is no part of this base.
            table.take_changed()
        optimizer = parent.path / OPTIMIZER if OPTIMIZER in parent.manifest.files else None
        return Start(load_dense(config, parent.path / DENSE), tables, parent.digest, optimizer), training

    def _judged(self, plan: Planned, spans: Spans, trained: Trained) -> Judged:
        if self._work.has(_JUDGED):
            return Judged(**self._work.read(_JUDGED))
        incumbent = None
        if plan.incumbent is not None:
            config = ModelConfig.from_dict(plan.incumbent.manifest.about.config["model"])
            theirs = ServedVectors.of(plan.incumbent.manifest.about.config, self._settings.data, f"base {plan.incumbent.number}")
            incumbent = (Model.load(plan.incumbent.path, config, theirs), learned_by(plan.incumbent).positions)
        ours = ServedVectors.of(trained.config, self._settings.data)
        candidate = Model.load(trained.draft, ModelConfig.from_dict(trained.config["model"]), ours)
        request = self._request
        judged = judge(
            self._examples,
            spans,
            candidate,
            incumbent,
            self._config(plan),
            request.rule,
            self._every or self._fingerprint,
            request.seed,
            self._told,
        )
        self._work.write(_JUDGED, asdict(judged))
        # As it is read back: what a manifest says must not depend on whether there was a stop in between.
        return Judged(**self._work.read(_JUDGED))

    def _config(self, plan: Planned) -> LearnerConfig:
        """How both models learn on: as the base that is served does, but for what was asked for."""
        course = read_course(self._registry.directory, plan.incumbent.number) if plan.incumbent is not None else None
        config = course.config if course is not None else LearnerConfig()
        return LearnerConfig.from_dict(config.to_dict() | dict(self._request.learner))

    def _about(self, plan: Planned, spans: Spans, trained: Trained, judged: Judged) -> Described:
        return Described(
            config=trained.config,
            feature_fingerprint=trained.feature_fingerprint,
            vocabulary_fingerprint=self._registry.bases.expected.vocabulary,
            cut=spans.cut_dict() | {"from_scratch": self._request.from_scratch},
            parent=_number(plan.parent),
            build=trained.build,
            metrics={"training": trained.metrics, "gate": {"passed": judged.passed, "reason": judged.reason, **judged.figures}},
            made_as_of=spans.as_of,
        )

    def _published(self, about: Described) -> Base:
        """The draft as a base; the one that it has become already, if it was stopped behind that."""
        if self._work.has(_PUBLISHED):
            return self._registry.base(self._work.read(_PUBLISHED)["base"])
        base = self._same(about)
        if base is None:
            with self._registry.draft() as draft:
                with translated(f"can't copy {self._work.draft}"):
                    for name in self._work.files():
                        shutil.copyfile(self._work.draft / name, draft / name)
                base = self._registry.publish(draft, about)
        self._work.write(_PUBLISHED, {"base": base.number})
        return base

    def _same(self, about: Described) -> Base | None:
        """The newest base, if it is of this draft: it was published, and then the process was killed."""
        numbers = self._registry.bases.numbers()
        if not numbers:
            return None
        try:
            newest = self._registry.bases.opened(numbers[-1])
        except (DamagedModelError, FingerprintError):
            return None
        files = {name: entry.sha256 for name, entry in newest.manifest.files.items()}
        same = files == self._work.files() and _plain(asdict(newest.manifest.about)) == _plain(asdict(about))
        return newest if same else None

    def _refused(self, about: Described) -> Path:
        """Keep the candidate to look at, in the place of the one before; with a manifest, so that it can be published all the same."""
        place, files = self._registry.directory / REFUSED, self._work.files()
        draft = place.with_name(f"{durable.DRAFT}{REFUSED}")
        with translated(f"can't write {place}"):
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(self._work.draft, draft)
            entries = {name: FileEntry(*durable.measure(draft / name)) for name in files}
            number = max(self._registry.bases.numbers(), default=0) + 1
            durable.write(draft / MANIFEST, Manifest(number, entries, about).sealed().to_bytes())
            shutil.rmtree(place, ignore_errors=True)
            draft.rename(place)
        return place


def _described(spans: Spans, plan: Planned) -> str:
    begin = "the store's beginning" if plan.parent is None else f"base {plan.parent.number}'s last example"
    return f"{begin} and {moment(spans.learned_until)} (as of {moment(spans.as_of)}, less what is held back)"


def _number(base: Base | None) -> int | None:
    return None if base is None else base.number


def _digest(base: Base | None) -> str | None:
    return None if base is None else base.digest


def _plain(content: Any) -> Any:
    """As JSON has it."""
    return orjson.loads(orjson.dumps(content))

"""Ranked pins for a user: which model, which candidates, what is shown of them, and what is said and kept of it.

A request gets one model, whole, from its beginning to its end, whatever is switched meanwhile. No score is made up: without a model there is no
ranking.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from flows import stopping
from flows.errors import TidemarkError
from flows.features import SEQUENCE_LENGTH
from flows.positions import with_embedding
from flows.served import Status
from flows.served_rows import Ranked
from flows.settings import Settings
from flows.vocabulary import Vocabulary
from online_model.embedding.sources import Source
from online_model.registry.errors import NoModelError, OtherFeaturesError, OtherVocabularyError
from online_model.serving.answer import Answer, Ask, defaults
from online_model.serving.candidates import Candidates
from online_model.serving.errors import NoEmbeddingServedError, NoModelServedError, OtherModelError, UnavailableError
from online_model.serving.exploring import Shown, shown_of
from online_model.serving.models import Models
from online_model.serving.options import Options
from online_model.serving.packing import Packer, Request, one_said, said
from online_model.serving.rank_metrics import ARM, DEFAULTED, MODEL_FAILED, NO_MODEL, OLD_MODEL, OTHER_MODEL, RankMetrics
from online_model.serving.rank_schema import OWN_CANDIDATES, Wanted
from online_model.serving.retrieving import Retrieving, embedding_said
from online_model.serving.scorer import Scorer

if TYPE_CHECKING:
    # Not before a model is there: torch takes seconds to load.
    from online_model.embedding.retrieval import Retriever
    from online_model.serving.model import Model, Scores

_LOOK_S = 0.1
_NO_IDS = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Chosen:
    """What is to be ranked, and by what.

    Attributes
    ----------
    arm : str
        That whose model it is.
    model : Model
    ask : Ask
        One user, and the candidates.
    k : int
    come_from : str
        "request"; else where the server has the candidates from: "embedding" or "popular" as `embedding.retrieval.Source` has them, or "base",
        the pins seen most often in what the base has learned from.
    retriever : Retriever or None
        Where pins for this user are retrieved from.
    """

    arm: str
    model: Model
    ask: Ask
    k: int
    come_from: str
    retriever: Retriever | None


@dataclass(frozen=True, eq=False)
class Ranking:
    """What is said of a request, and kept.

    Attributes
    ----------
    answer : Answer
        Of the user and the pins that are shown, slot by slot.
    ranked : Ranked
    body : bytes
    """

    answer: Answer
    ranked: Ranked
    body: bytes


class Rankings:
    """Ranks with whatever model is served.

    Parameters
    ----------
    settings : Settings
    options : Options
    vocabulary : Vocabulary
    packer : Packer
    metrics : RankMetrics
    """

    def __init__(self, settings: Settings, options: Options, vocabulary: Vocabulary, packer: Packer, metrics: RankMetrics) -> None:
        self._options, self._packer, self._metrics = options, packer, metrics
        self._surfaces = vocabulary.surfaces
        self.models = Models(settings, metrics)
        self._scorer = Scorer(options.model_threads, options.most_waiting)
        self.retrieving = Retrieving(packer, options.model_threads, options.most_waiting, options.model_timeout_s)

    @property
    def waiting(self) -> int:
        """Requests that wait for a model."""
        return self._scorer.waiting

    def warm_up(self, seconds: float) -> None:
        """Load the model that is served, if there is one, and let it score once."""
        end = time.monotonic() + seconds
        while not (stopping.requested() or self.models.has_looked(_LOOK_S)) and time.monotonic() < end:
            continue
        if (now := self.models.now) is not None:
            one = np.zeros(1, np.int64)
            nobody = Candidates(0, 0, defaults(Ask(one, one, (), None)))
            # What is wrong with one is told to whoever asks for a ranking.
            wait([self._scorer.score(model, nobody) for model in now.models.values()], max(0.0, end - time.monotonic()))

    def close(self) -> None:
        """Release everything."""
        self.models.close()
        self._scorer.close()
        self.retrieving.close()

    async def choose(self, wanted: Wanted) -> Chosen:
        """The model and the candidates of a request.

        Raises
        ------
        NoModelServedError, OtherModelError
        UnavailableError
            The index does not answer.
        """
        now = self.models.now
        if now is None:
            raise self._no_model()
        own, arm, model = now.of_user(wanted.user)
        if own != arm:
            self._metrics.fell_back(ARM)
        elif self.models.is_old(arm):
            self._metrics.fell_back(OLD_MODEL)
        retriever = now.retriever_of(model)
        pins, come_from = wanted.candidates, "request"
        if pins is None and retriever is not None:
            # More than are ranked: which of them the user knows is read together with their features.
            found = await self.retrieving.search(retriever, wanted.user, OWN_CANDIDATES + SEQUENCE_LENGTH, _NO_IDS)
            pins, come_from = found.pins, found.source.value
        if pins is None or not len(pins):
            pins, come_from = model.candidates, "base"
        if not len(pins):
            raise NoModelServedError(f"base {model.base} knows no pin that could be a candidate", "name candidates")
        return Chosen(arm, model, Ask(np.array([wanted.user], np.int64), pins, (), wanted.as_of), wanted.k, come_from, retriever)

    def no_embedding(self) -> NoEmbeddingServedError:
        """Why nothing can be retrieved."""
        trouble = self.models.embeddings.trouble
        if trouble is None:
            return NoEmbeddingServedError(
                "no user embeddings are served yet", "train some and infer users (`tidemark embed train`, `tidemark embed infer`)"
            )
        return NoEmbeddingServedError(
            f"no user embeddings can be served: {trouble}", "see /readyz; they are taken as soon as they are sound"
        )

    def _no_model(self) -> NoModelServedError | OtherModelError:
        trouble = self.models.trouble
        if isinstance(trouble, (OtherFeaturesError, OtherVocabularyError)):
            self._metrics.fell_back(OTHER_MODEL)
            error, _, advice = str(trouble).rpartition("; ")
            return OtherModelError(error, advice)
        self._metrics.fell_back(NO_MODEL)
        if trouble is None or isinstance(trouble, NoModelError):
            return NoModelServedError(
                "no model is served yet",
                "train one and publish it (`tidemark models publish BASE`); features are served meanwhile, see /v1/features",
            )
        return NoModelServedError(f"no model can be served: {trouble}", "see /readyz; it is taken as soon as it is sound")

    async def rank(self, request: Request, chosen: Chosen, answer: Answer, began: float) -> Ranking:
        """Rank what was read.

        Parameters
        ----------
        began : float
            When reading began, by `time.perf_counter`.

        Raises
        ------
        UnavailableError
            The model does not answer in time, or too much waits for it.
        InputError
            It says what is no number.
        """
        read = time.perf_counter()
        if (answer.user_status == Status.DEFAULTED).all():
            self._metrics.fell_back(DEFAULTED)
        if chosen.come_from in (Source.EMBEDDING, Source.POPULAR):
            answer = _unknown(answer)
            chosen = replace(chosen, ask=answer.ask)
        scores = await self._scored(request, chosen, answer)
        scored = time.perf_counter()
        shown = shown_of(scores.score, chosen.k, self._options.explore, request.request_id)
        part = _with_table(_part(answer, shown.place), chosen.retriever)
        ranked = _ranked(chosen, shown, scores)
        body = self._body(request, chosen, part, ranked, scores.probabilities[shown.place])
        seconds = {
            "features": read - began,
            "waiting": max(0.0, scored - read - scores.packing_s - scores.model_s),
            "packing": scores.packing_s,
            "model": scores.model_s,
            "answer": time.perf_counter() - scored,
        }
        self._metrics.ranked(chosen.arm, len(chosen.ask.pins), ranked.score, int(ranked.explored.sum()), seconds)
        return Ranking(part, ranked, body)

    async def _scored(self, request: Request, chosen: Chosen, answer: Answer) -> Scores:
        assert request.surface is not None
        given = Candidates(request.timestamp, self._surfaces[request.surface], answer)
        try:
            async with asyncio.timeout(self._options.model_timeout_s):
                return await asyncio.wrap_future(self._scorer.score(chosen.model, given))
        except TimeoutError:
            self._metrics.fell_back(MODEL_FAILED)
            raise UnavailableError(
                f"the model has not answered within {self._options.model_timeout_s:g} s",
                "ask again, for fewer candidates or from more servers; --model-timeout is how long it may take",
            ) from None
        except TidemarkError:
            self._metrics.fell_back(MODEL_FAILED)
            raise

    def _body(self, request: Request, chosen: Chosen, answer: Answer, ranked: Ranked, probabilities: np.ndarray) -> bytes:
        pins = {
            "pin_id": answer.ask.pins,
            **said(answer.pin_status),
            "slot": ranked.slot,
            "score": ranked.score,
            "propensity": ranked.propensity,
            "explored": ranked.explored,
            "probabilities": {head: np.ascontiguousarray(probabilities[:, i]) for i, head in enumerate(chosen.model.heads)},
        }
        out = {
            **self._packer.head(request, answer),
            "user_id": int(answer.ask.users[0]),
            **one_said(answer.user_status),
            "arm": chosen.arm,
            "base": ranked.base,
            "delta": ranked.delta,
            "candidates": len(chosen.ask.pins),
            "candidates_from": chosen.come_from,
            "embedding": None if chosen.retriever is None else embedding_said(chosen.retriever),
            "pins": pins,
        }
        return orjson.dumps(out, option=orjson.OPT_SERIALIZE_NUMPY)

    def told(self) -> dict[str, Any]:
        """How the models are, for /readyz."""
        now, trouble = self.models.now, self.models.trouble
        out: dict[str, Any] = {"ok": now is not None and trouble is None}
        if now is not None:
            out["arms"] = {
                arm: {"base": m.base, "delta": m.delta, "newest_event_time": m.newest_event_time if m.newest_event_time >= 0 else None}
                for arm, m in now.models.items()
            }
        return out | ({"trouble": str(trouble)} if trouble is not None else {})

    def embeddings_told(self) -> dict[str, Any]:
        """How user embeddings are, for /readyz."""
        own, trouble = self.models.embeddings.own, self.models.embeddings.trouble
        out: dict[str, Any] = {"ok": own is not None and trouble is None}
        return out | (embedding_said(own) if own is not None else {}) | ({"trouble": str(trouble)} if trouble is not None else {})


def _unknown(answer: Answer) -> Answer:
    """An answer with the pins that the user has not acted on, as many as are ranked; with all of them, where they know each."""
    new = np.flatnonzero(~np.isin(answer.ask.pins, answer.sequences.pin_id))
    return _part(answer, (new if len(new) else np.arange(len(answer.ask.pins)))[:OWN_CANDIDATES])


def _part(answer: Answer, place: np.ndarray) -> Answer:
    """An answer with some of its pins."""
    ask = replace(answer.ask, pins=answer.ask.pins[place])
    return replace(answer, ask=ask, pin_counters=answer.pin_counters[place], pin_status=answer.pin_status[place])


def _with_table(answer: Answer, retriever: Retriever | None) -> Answer:
    """An answer whose positions say which table of user embeddings was at hand, for whoever learns of it."""
    packed = answer.prefix.packed
    if retriever is None or packed is None:
        return answer
    table = retriever.table.manifest
    return replace(answer, prefix=replace(answer.prefix, packed=with_embedding(packed, table.version, table.number)))


def _ranked(chosen: Chosen, shown: Shown, scores: Scores) -> Ranked:
    return Ranked(
        slot=np.arange(len(shown.place), dtype=np.int16),
        propensity=shown.propensity,
        explored=shown.explored,
        score=scores.score[shown.place],
        base=chosen.model.base,
        delta=chosen.model.delta,
        not_shown=chosen.ask.pins[shown.not_shown],
    )

"""The models that are served, one for each arm (served, canary, holdout), as the registry and the log of deltas have them: followed in a thread.

What is handed out is whole: a base with its own rows, at one delta. What can't be followed leaves the last good one in place, and says so. Torch is
not loaded before there is a model.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.errors import LogError, TidemarkError
from flows.log import Log
from flows.open_log import log_exists, open_log
from flows.outputs import EMBEDDINGS
from flows.settings import Settings
from online_model.registry.current import Current, read_current
from online_model.registry.errors import NoModelError
from online_model.serving.embeddings import Embeddings
from online_model.serving.rank_metrics import RankMetrics

if TYPE_CHECKING:
    # Not before a model is there: torch takes seconds to load.
    from online_model.deltas.follower import Follower
    from online_model.embedding.retrieval import Retriever
    from online_model.registry.bases import Base
    from online_model.registry.registry import Registry
    from online_model.serving.model import Dense, Model

_log = logging.getLogger(__name__)

_EACH_S = 0.25
# Of one that can't be followed: a look may read a whole base.
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_CLOSE_S = 5.0
SERVED_ARM = "served"


@dataclass(frozen=True, eq=False)
class Now:
    """What is served at one moment.

    Attributes
    ----------
    current : Current
    models : mapping of str to Model
        By arm; "served" is among them.
    own : Retriever or None
        Of the embedding version that is served.
    """

    current: Current
    models: Mapping[str, Model]
    own: Retriever | None = None

    def of_user(self, user: int) -> tuple[str, str, Model]:
        """The arm that a user is of, that whose model they get, and the model: where an arm has none, that which is served."""
        arm = self.current.role_of(user)
        gets = arm if arm in self.models else SERVED_ARM
        return arm, gets, self.models[gets]

    def retriever_of(self, model: Model) -> Retriever | None:
        """Where candidates for a model come from: of the embedding version that it takes, else of the one that is served."""
        return model.retriever if model.retriever is not None else self.own


class Models:
    """See the module.

    Parameters
    ----------
    settings : Settings
    metrics : RankMetrics

    Attributes
    ----------
    now : Now or None
        None: there is no model that can be served.
    embeddings : Embeddings
    trouble : TidemarkError or None
        Why there is none, or why one of them is not as new as it should be.
    """

    def __init__(self, settings: Settings, metrics: RankMetrics) -> None:
        self._settings, self._metrics = settings, metrics
        self.now: Now | None = None
        self.embeddings = Embeddings(settings)
        self.trouble: TidemarkError | None = None
        self._troubles: dict[str, TidemarkError] = {}
        self._serial = -1
        self._arms: dict[str, _Arm] = {}
        self._dense: dict[str, Dense] = {}
        self._registry: Registry | None = None
        self._log: Log | None = None
        self._log_file: tuple[int, int] | None = None
        self._ended, self._looked = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="following-models", daemon=True)
        self._thread.start()

    def is_old(self, arm: str) -> bool:
        """Whether the model of an arm is not as new as it should be, as far as it can be told."""
        return arm in self._troubles or (self.trouble is not None and not self._troubles)

    def retriever_of(self, user: int) -> Retriever | None:
        """Users, pins and index that a user's pins are retrieved from: those of their ranker's version, if it takes one."""
        now = self.now
        return self.embeddings.own if now is None else now.retriever_of(now.of_user(user)[2])

    def has_looked(self, seconds: float) -> bool:
        """Whether it has looked for the first time, within some seconds."""
        return self._looked.wait(seconds)

    def close(self) -> None:
        """End it; what hangs in a read is left to the end of the process."""
        self._ended.set()
        self._thread.join(_CLOSE_S)

    # In the thread -------------------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            self.embeddings.look({m.retriever.version for m in (self.now.models.values() if self.now else ()) if m.retriever is not None})
            try:
                trouble = self._look()
            except TidemarkError as error:
                trouble, self._troubles = error, {}
            except Exception as error:
                _log.exception("following the models has failed in a way that nobody has foreseen")
                trouble = TidemarkError(f"following the models has failed: {type(error).__name__}; see what the server has written")
            if str(trouble) != str(self.trouble) and not (trouble is None or isinstance(trouble, NoModelError)):
                _log.warning("models: %s", trouble)
            self.trouble = trouble
            self._looked.set()
            if self._ended.wait(_EACH_S):
                break
        self._drop_log()

    def _look(self) -> TidemarkError | None:
        """Take what is new; what is in the way."""
        current = read_current(self._settings.data / "models")
        anew, self._serial = current.serial != self._serial, current.serial
        if self._log is not None and self._log_file != _identity(self._settings):
            self._drop_log()
        self._arms = {role: self._arms.get(role) or _Arm(role) for role in current.starts()}
        for arm in self._arms.values():
            if self._ended.is_set():
                break
            arm.look(current.serial, self._follower, self._dense_of, self.embeddings.of, anew, self._ended.is_set)
        models = {role: arm.model for role, arm in self._arms.items() if arm.model is not None}
        if SERVED_ARM in models:
            self.now = Now(current, models, self.embeddings.own)
            self._metrics.models({role: (m.base, m.delta, m.newest_event_time, self._arms[role].healed) for role, m in models.items()})
        in_use = {model.dense.base.digest for model in models.values()}
        self._dense = {digest: dense for digest, dense in self._dense.items() if digest in in_use}
        self._troubles = {role: arm.trouble for role, arm in self._arms.items() if arm.trouble is not None}
        if any(isinstance(trouble, LogError) for trouble in self._troubles.values()):
            # It may be another file by now.
            self._drop_log()
        return next(iter(self._troubles.values()), None)

    def _follower(self, role: str) -> Follower:
        from online_model.deltas.follower import Follower
        from online_model.registry.registry import Registry

        if self._registry is None:
            self._registry = Registry.of(self._settings)
        if self._log is None:
            if not log_exists(self._settings, EMBEDDINGS):
                # Deltas will come into it, if a learner is ever started.
                open_log(self._settings, EMBEDDINGS, create=True).close()
            self._log_file = _identity(self._settings)
            self._log = open_log(self._settings, EMBEDDINGS, read_only=True)
        return Follower(self._registry, self._log, role)

    def _dense_of(self, base: Base) -> Dense:
        from online_model.serving.model import Dense

        if base.digest not in self._dense:
            self._dense[base.digest] = Dense.of(base)
        return self._dense[base.digest]

    def _drop_log(self) -> None:
        for arm in self._arms.values():
            arm.follower = None
        log, self._log = self._log, None
        if log is not None:
            log.close()


def _identity(settings: Settings) -> tuple[int, int] | None:
    """Which file the embedded log is: a restore puts another in its place, and whoever has the old one open would read that for ever."""
    try:
        found = (settings.logs / f"{EMBEDDINGS}.db").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Arm:
    """The model of one arm, and whatever keeps it from being newer."""

    def __init__(self, role: str) -> None:
        self._role = role
        self.follower: Follower | None = None
        self.model: Model | None = None
        self.trouble: TidemarkError | None = None
        self._serial = -1
        self._again_at, self._pause_s = 0.0, _PAUSE_S

    @property
    def healed(self) -> int:
        """How often it has gone on at a snapshot."""
        return self.follower.healed if self.follower is not None else 0

    def look(
        self,
        serial: int,
        open_: Callable[[str], Follower],
        dense_of: Callable[[Base], Dense],
        retriever_of: Callable[[int], Retriever],
        anew: bool,
        ended: Callable[[], bool],
    ) -> None:
        """Take what is new, if it is time to; never raises what is wrong with a model.

        Parameters
        ----------
        serial : int
            Of what is served now.
        open_, dense_of, retriever_of : callable
            Give a follower of a role, what of a base never changes, and the newest of an embedding version.
        anew : bool
            Whether what is served has been changed since the last look.
        ended : callable
        """
        if self.trouble is not None and not anew and time.monotonic() < self._again_at:
            return
        try:
            if self.follower is None:
                self.follower = open_(self._role)
            while self.follower.refresh() and not ended():
                continue
            self._take(serial, self.follower, dense_of, retriever_of)
            if self.follower.trouble is not None:
                raise self.follower.trouble
        except Exception as error:
            if not isinstance(error, TidemarkError):
                _log.exception("the model of arm '%s' can't be followed, for a reason that nobody has foreseen", self._role)
                error = TidemarkError(f"arm '{self._role}' can't be followed: {type(error).__name__}; see what the server has written")
            self.trouble = error
            self._again_at = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        else:
            self.trouble, self._pause_s = None, _PAUSE_S

    def _take(self, serial: int, follower: Follower, dense_of: Callable[[Base], Dense], retriever_of: Callable[[int], Retriever]) -> None:
        from online_model.serving.model import Model

        served, model = follower.served, self.model
        same = model is not None and model.dense.base.digest == served.base.digest
        if model is not None and same and serial == self._serial and served.delta < model.delta:
            # Begun anew, on a log that has lost some, and nobody has switched. The learner puts the same out again.
            raise TidemarkError(
                f"log '{EMBEDDINGS}' has deltas of base {model.base} up to {served.delta} only, and {model.delta} is served; "
                "it stays until the learner has put out again what is missing"
            )
        # The same object as long as nothing is new: requests of one model are scored together.
        dense = dense_of(served.base)
        # Before the model: a ranker without the users that it takes is not served.
        retriever = None if dense.embedding is None else dense.embedding.checked(retriever_of(dense.embedding.version))
        if model is None or not same or model.tables is not served.tables or model.retriever is not retriever:
            self.model = Model.of(dense, served, retriever)
        self._serial = serial

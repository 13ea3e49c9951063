"""What a retrain is measured against: the loop that anyone would write. Everything lies in tensors, each ID's place is ready, torch does the rest.

It admits nobody, drops no ID, keeps no checkpoint, and its vectors are two `torch.nn.Embedding` with sparse gradients under torch's Adagrad.
"""

from __future__ import annotations

import numpy as np
import torch

from online_model.model.heads import HEAD_WEIGHTS
from online_model.model.inputs import Inputs
from online_model.model.loss import loss_of
from online_model.model.ranker import Ranker
from online_model.training.config import TrainingConfig
from online_model.training.epoch import Epoch
from online_model.training.examples import TrainingExamples

# Said either way, or torch warns that nobody has said it. Checks would only make it slower.
torch.sparse.check_sparse_tensor_invariants.disable()


class PlainLoop:
    """The same batches as an epoch's, from tensors.

    Parameters
    ----------
    epoch : Epoch
        Whose order, model's configuration and tables' rows are taken; it is not changed.
    examples : TrainingExamples
    config : TrainingConfig
    """

    def __init__(self, epoch: Epoch, examples: TrainingExamples, config: TrainingConfig) -> None:
        self.ranker = Ranker(epoch.ranker.config).train()
        self.ranker.load_state_dict(epoch.ranker.state_dict())
        columns = epoch.tables.rows_in(examples.columns)
        whole = columns.features(np.arange(len(examples)), self.ranker.config.sequence_length)
        self.rows = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in vars(whole).items()}
        self.labels = torch.from_numpy(examples.labels)
        self.batches = [torch.from_numpy(epoch.order.batch(i)) for i in range(len(epoch.order))]
        self.at = 0
        self.embeddings = []
        for table in (epoch.tables.users, epoch.tables.pins):
            weights = torch.from_numpy(table.gather(np.arange(len(table) + 1)))
            self.embeddings.append(torch.nn.Embedding.from_pretrained(weights, freeze=False, sparse=True))
        self.optimizers = [
            torch.optim.Adam(self.ranker.parameters(), lr=config.learning_rate),
            torch.optim.Adagrad([one.weight for one in self.embeddings], lr=config.table_learning_rate),
        ]
        self.weights = torch.tensor([HEAD_WEIGHTS[head] for head in self.ranker.config.heads])

    def inputs(self, index: torch.Tensor) -> Inputs:
        """A batch."""
        rows = self.rows
        context, place = torch.unique(rows["context"][index], return_inverse=True)
        users, pins = self.embeddings
        requests = {name: rows[name][context] for name in ("user_counters", "hour", "weekday")}
        sequence = {name: rows[name][context] for name in ("sequence_action", "sequence_surface", "sequence_age", "sequence_mask")}
        return Inputs(
            user=users(rows["user_id"][index]),
            pin=pins(rows["pin_id"][index]),
            context=place,
            sequence_pin=pins(rows["sequence_pin_id"][context]),
            pin_counters=rows["pin_counters"][index],
            surface=rows["surface"][index],
            slot=rows["slot"][index],
            user_embedding=rows["user_embedding"][index],
            **requests,
            **sequence,
        )

    def step(self) -> int:
        """Learn from the next batch; returns its size."""
        index = self.batches[self.at]
        self.at += 1
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        logits = self.ranker(self.inputs(index))
        loss_of(logits, self.labels[index][:, : logits.shape[1]], self.weights, torch.ones(len(index), 1)).backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return len(index)

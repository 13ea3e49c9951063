"""The ranking model: encoder of the user's actions, cross layers, mixture of experts, heads.

It owns no vector of any ID: they are given. A row's logits depend on its own candidate and request alone.
"""

from __future__ import annotations

import torch
from torch import nn

from online_model.model.columns import CODES, COUNTER_LIMIT
from online_model.model.config import Encoder, ModelConfig
from online_model.model.dcn import CrossNetwork
from online_model.model.encoder import Encoded, NoEncoder, SequenceEncoder
from online_model.model.inputs import Inputs
from online_model.model.mmoe import Heads, Mixture
from online_model.model.pooling import CnnEncoder, MeanEncoder
from online_model.model.recurrent import RecurrentEncoder
from online_model.model.transformer import EarlyTransActEncoder, TransActEncoder, VanillaEncoder

_ENCODERS: dict[Encoder, type[SequenceEncoder]] = {
    Encoder.MEAN: MeanEncoder,
    Encoder.CNN: CnnEncoder,
    Encoder.GRU: RecurrentEncoder,
    Encoder.LSTM: RecurrentEncoder,
    Encoder.VANILLA: VanillaEncoder,
    Encoder.TRANSACT_V1_0: TransActEncoder,
    Encoder.TRANSACT_V1_1: EarlyTransActEncoder,
}
_SMALL = 8  # width of surface, hour, weekday and slot


class Ranker(nn.Module):
    """Logits of what comes of a candidate.

    Parameters
    ----------
    config : ModelConfig
        The first weights follow from its seed, whatever torch's own random state.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.encoder = NoEncoder() if config.encoder == Encoder.NONE else _ENCODERS[config.encoder](config)
            self.surface, self.slot = nn.Embedding(CODES, _SMALL), nn.Embedding(config.slots + 1, _SMALL)
            self.hour, self.weekday = nn.Embedding(24, _SMALL), nn.Embedding(7, _SMALL)
            counters = 48 if config.revisit_features else 0
            width = 2 * config.dim + self.encoder.width + counters + 4 * _SMALL + (config.dim if config.user_embedding else 0)
            self.crosses = CrossNetwork(width, config.cross_layers, config.cross_rank)
            heads = len(config.heads)
            self.mixture = Mixture(width, heads, config.experts, config.expert_hidden, config.expert_dropout)
            self.heads = Heads(heads, config.expert_hidden)
            if config.user_embedding:
                # To the width of an ID's vector; its bias is what is said of somebody who has none.
                self.user_embedding = nn.Linear(config.user_embedding + 1, config.dim)
            for table in (self.surface, self.slot, self.hour, self.weekday):
                nn.init.normal_(table.weight, std=0.1)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """float32[B, heads], in the order of `config.heads`."""
        return self.logits(self.encoder.of_contexts(inputs), inputs)

    def logits(self, encoded: Encoded, inputs: Inputs) -> torch.Tensor:
        """The same, of requests that are encoded already: `inputs` may be some of their candidates.

        Parameters
        ----------
        encoded : Encoded
            Of the encoder's `of_contexts`.
        inputs : Inputs
            B candidates; of its fields of requests, counters, hour and weekday are read.

        Returns
        -------
        float32[B, heads]
        """
        context = inputs.context
        slot = (inputs.slot + 1).clamp(0, self.config.slots)
        parts = [inputs.user, inputs.pin, self.encoder.of_rows(encoded, context, inputs.pin)]
        if self.config.revisit_features:
            # Of the order of 1, like all the rest that the cross layers multiply.
            parts += [inputs.user_counters.index_select(0, context) * (2 / COUNTER_LIMIT), inputs.pin_counters * (2 / COUNTER_LIMIT)]
        if self.config.user_embedding:
            # Of the order of 1 too: the vector's length is 1, whatever its width.
            own = inputs.user_embedding * self.config.user_embedding**0.5
            parts.append(self.user_embedding(own))
        times = torch.cat([self.hour(inputs.hour), self.weekday(inputs.weekday)], -1).index_select(0, context)
        x = torch.cat([*parts, times, self.surface(inputs.surface), self.slot(slot)], -1)
        return self.heads(self.mixture(self.crosses(x)))

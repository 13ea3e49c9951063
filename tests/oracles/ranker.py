"""The ranking model as its formulas say, one row and one step at a time, in float64: numpy alone, and no row knows of another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]
COUNTER_SCALE = 0.125


def linear(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    y = w[f"{name}.weight"].astype(np.float64) @ x
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def layer_norm(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def cross(w: Weights, x0: np.ndarray, layers: int, prefix: str = "crosses.") -> np.ndarray:
    x = x0
    for i in range(layers):
        x = x0 * (w[f"{prefix}up.{i}.weight"] @ (w[f"{prefix}down.{i}.weight"] @ x) + w[f"{prefix}up.{i}.bias"]) + x
    return x


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def mixture(w: Weights, x: np.ndarray, heads: int, experts: int, prefix: str = "mixture.") -> np.ndarray:
    said = np.maximum(linear(w, f"{prefix}experts", x), 0).reshape(experts, -1)
    gates = linear(w, f"{prefix}gates", x).reshape(heads, experts)
    return np.array([sum(share * one for share, one in zip(softmax(gate), said, strict=True)) for gate in gates])


def attention_layer(w: Weights, name: str, steps: list[np.ndarray], seen: list[bool]) -> list[np.ndarray]:
    width = len(steps[0])
    asked = [linear(w, f"{name}.asked", x) for x in steps]
    out = []
    for i, x in enumerate(steps):
        scores = np.array([asked[i][:width] @ asked[j][width : 2 * width] / math.sqrt(width) for j in range(len(steps)) if seen[j]])
        values = [asked[j][2 * width :] for j in range(len(steps)) if seen[j]]
        looked = sum(share * value for share, value in zip(softmax(scores), values, strict=True))
        y = layer_norm(w, f"{name}.norm_attention", x + linear(w, f"{name}.attended", looked))
        out.append(layer_norm(w, f"{name}.norm_forward", y + linear(w, f"{name}.second", np.maximum(linear(w, f"{name}.first", y), 0))))
    return out


def position(i: int, width: int) -> np.ndarray:
    out = np.zeros(width)
    for k in range(width):
        angle = i / 10_000 ** ((k - k % 2) / width)
        out[k] = math.sin(angle) if k % 2 == 0 else math.cos(angle)
    return out


def gru(w: Weights, steps: list[np.ndarray], hidden: int) -> np.ndarray:
    h, cells = np.zeros(hidden), "encoder.cells."
    for x in steps:
        a = w[f"{cells}weight_ih_l0"] @ x + w[f"{cells}bias_ih_l0"]
        b = w[f"{cells}weight_hh_l0"] @ h + w[f"{cells}bias_hh_l0"]
        r, z = sigmoid(a[:hidden] + b[:hidden]), sigmoid(a[hidden : 2 * hidden] + b[hidden : 2 * hidden])
        n = np.tanh(a[2 * hidden :] + r * b[2 * hidden :])
        h = (1 - z) * n + z * h
    return h


def lstm(w: Weights, steps: list[np.ndarray], hidden: int) -> np.ndarray:
    h, c, cells = np.zeros(hidden), np.zeros(hidden), "encoder.cells."
    for x in steps:
        g = w[f"{cells}weight_ih_l0"] @ x + w[f"{cells}bias_ih_l0"] + w[f"{cells}weight_hh_l0"] @ h + w[f"{cells}bias_hh_l0"]
        i, f, n, o = (g[k * hidden : (k + 1) * hidden] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(n)
        h = sigmoid(o) * np.tanh(c)
    return h


def encoded(config: dict[str, Any], w: Weights, pin: np.ndarray, steps: list[np.ndarray]) -> np.ndarray:
    """What the encoder says of one request's actions, newest first, to one candidate."""
    kind, hidden, layers = config["encoder"], config["encoder_hidden"], config["encoder_layers"]
    width = config["dim"] + config["action_dim"] + config["surface_dim"]
    if kind == "none":
        return np.zeros(0)
    if kind == "mean":
        return sum(steps, np.zeros(width)) / max(len(steps), 1)
    if kind == "cnn":
        padded = [np.zeros(width), *steps, np.zeros(width)]
        kernel, bias = w["encoder.convolution.weight"], w["encoder.convolution.bias"]
        out = [np.maximum(bias + sum(kernel[:, :, k] @ padded[i + k] for k in range(3)), 0) for i in range(len(steps))]
        return np.max(out, axis=0) if out else np.zeros(hidden)
    if kind == "gru":
        return gru(w, steps[::-1], hidden)
    if kind == "lstm":
        return lstm(w, steps[::-1], hidden)
    if kind == "vanilla":
        steps = [x + position(i, width) for i, x in enumerate(steps)]
    if kind == "transact_v1_1":
        steps, width = [np.concatenate([pin, x]) for x in steps], width + config["dim"]
    for i in range(layers):
        steps = attention_layer(w, f"encoder.layers.{i}", steps, [True] * len(steps)) if steps else []
    if kind == "vanilla":
        return sum(steps, np.zeros(width)) / max(len(steps), 1)
    first = [steps[i] if i < len(steps) else np.zeros(width) for i in range(config["first_outputs"])]
    highest = np.max(steps, axis=0) if steps else np.zeros(width)
    return np.concatenate([*first, linear(w, "encoder.pooled", highest)])


def logits(config: dict[str, Any], w: Weights, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """float64[B, heads] of the fields of a batch."""
    w = {name: value.astype(np.float64) for name, value in w.items()}
    heads = 5 if config["revisit_head"] else 4
    out = []
    for b, c in enumerate(inputs["context"].tolist()):
        steps = [
            np.concatenate(
                [inputs["sequence_pin"][c, i], w["encoder.steps.action.weight"][action], w["encoder.steps.surface.weight"][surface]]
            )
            for i, (action, surface) in enumerate(zip(inputs["sequence_action"][c], inputs["sequence_surface"][c], strict=True))
            if inputs["sequence_mask"][c, i] and config["encoder"] != "none"
        ]
        parts = [inputs["user"][b], inputs["pin"][b], encoded(config, w, inputs["pin"][b].astype(np.float64), steps)]
        if config["revisit_features"]:
            parts += [inputs["user_counters"][c] * COUNTER_SCALE, inputs["pin_counters"][b] * COUNTER_SCALE]
        if width := config.get("user_embedding", 0):
            parts.append(linear(w, "user_embedding", inputs["user_embedding"][b].astype(np.float64) * math.sqrt(width)))
        slot = min(max(inputs["slot"][b] + 1, 0), config["slots"])
        parts += [w["hour.weight"][inputs["hour"][c]], w["weekday.weight"][inputs["weekday"][c]]]
        parts += [w["surface.weight"][inputs["surface"][b]], w["slot.weight"][slot]]
        mixed = mixture(w, cross(w, np.concatenate(parts).astype(np.float64), config["cross_layers"]), heads, config["experts"])
        out.append([mixed[h] @ w["heads.weight"][h] + w["heads.bias"][h] for h in range(heads)])
    return np.array(out).reshape(-1, heads)


def loss(logits: np.ndarray, labels: np.ndarray, head_weights: list[float], weights: np.ndarray) -> float:
    """Σ over rows and heads, over the number of rows; a label of −1 says nothing."""
    total = 0.0
    for i, row in enumerate(labels.tolist()):
        for h, label in enumerate(row):
            if label != -1:
                p = 1 / (1 + math.exp(-logits[i, h]))
                total -= weights[i] * head_weights[h] * (math.log(p) if label else math.log(1 - p))
    return total / max(len(labels), 1)

"""The rotary embedding of one kind of layer: base, scaling, and what llama.cpp computes differently.

transformers 5 writes `rope_parameters` in config.json, one set per kind of layer if they differ. Earlier versions wrote
`rope_theta` and `rope_scaling`; the scaling then applied only to the layers with full attention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Rope:
    """`parameters` are spelled as in transformers 5's `rope_parameters`; `values` are the entries of config.json."""

    parameters: Mapping[str, Any]
    values: Mapping[str, Any]
    head_dim: int

    @classmethod
    def of(cls, values: Mapping[str, Any], head_dim: int, layer_kind: str, one_set_per_kind: bool) -> Rope:
        """Read the parameters of `layer_kind` from either spelling of config.json."""
        parameters = values.get("rope_parameters") or {}
        if one_set_per_kind:
            parameters = parameters.get(layer_kind) or {}
        base = values.get("rope_theta", 10_000.0)
        if layer_kind == SLIDING:
            base = values["rope_local_base_freq"]
        elif values.get("rope_scaling"):
            parameters = {**(parameters if one_set_per_kind else {}), **values["rope_scaling"]}
        scaling = parameters.get("rope_type") or parameters.get("type") or "default"
        return cls({"rope_theta": base, **parameters, "rope_type": scaling}, values, head_dim)

    @property
    def base(self) -> float:
        return float(self.parameters["rope_theta"])

    @property
    def scaling(self) -> str:
        return str(self.parameters["rope_type"])

    @property
    def original_context(self) -> int:
        """How many positions the model had before its rotary embedding was scaled."""
        candidates = (entries.get("original_max_position_embeddings") for entries in (self.parameters, self.values))
        return int(next((value for value in candidates if value), self.values["max_position_embeddings"]))

    @property
    def yarn_factor(self) -> float:
        factor = self.parameters.get("factor")
        return float(factor or self.values["max_position_embeddings"] / self.original_context)

    @property
    def yarn_attention_factor(self) -> float:
        """The factor for the GGUF file, which llama.cpp multiplies by the paper's own attention factor."""
        return self._transformers_attention_factor / _yarn_scale(self.yarn_factor)

    @property
    def _transformers_attention_factor(self) -> float:
        """The factor by which transformers multiplies sines and cosines (YaRN, arXiv 2309.00071, section 3.4)."""
        parameters, factor = self.parameters, self.yarn_factor
        if parameters.get("attention_factor") is not None:
            return float(parameters["attention_factor"])
        if parameters.get("mscale") and parameters.get("mscale_all_dim"):
            return _yarn_scale(factor, parameters["mscale"]) / _yarn_scale(factor, parameters["mscale_all_dim"])
        return _yarn_scale(factor)

    def llama3_factors(self) -> npt.NDArray[np.float32]:
        """The factor by which Llama 3's scaling slows each of a head's `head_dim / 2` rotations.

        Rotations with fewer than `low_freq_factor` turns over the original context are slowed by `factor`. Those with
        more than `high_freq_factor` turns are not slowed. In between, the two are interpolated.
        """
        frequencies = self.base ** -(np.arange(0, self.head_dim, 2) / self.head_dim)
        turns = self.original_context * frequencies / (2 * math.pi)
        low, high = self.parameters["low_freq_factor"], self.parameters["high_freq_factor"]
        unscaled = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return (1 / ((1 - unscaled) / self.parameters["factor"] + unscaled)).astype(np.float32)


def _yarn_scale(factor: float, weight: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

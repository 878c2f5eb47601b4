"""The environment of the child processes that export to ONNX: without telemetry, offline and quiet."""

from __future__ import annotations

from collections.abc import Mapping

CHILD_ENVIRONMENT: Mapping[str, str] = {
    "ORT_DISABLE_TELEMETRY": "1",  # before the packages load: they would record usage in the home directory
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}

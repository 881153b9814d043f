"""BentoML as its first pages show it: one endpoint with a PIL picture, one ONNX session, nothing tuned.

PEER_MODEL=model.int8.onnx PEER_SIDE=112 bentoml serve bentoml_peer:Plain
"""

from __future__ import annotations

import os

import bentoml
import numpy as np
import onnxruntime
from PIL import Image

SIDE = int(os.environ["PEER_SIDE"])


@bentoml.service
class Plain:
    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession(os.environ["PEER_MODEL"], providers=["CPUExecutionProvider"])

    @bentoml.api
    def score(self, image: Image.Image) -> dict:
        frame = np.asarray(image.convert("RGB").resize((SIDE, SIDE)))
        return {"score": float(self.session.run(["score"], {"frames": frame[None]})[0][0])}

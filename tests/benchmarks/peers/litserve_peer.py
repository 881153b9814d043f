"""LitServe with the same ONNX file and the same decoder, at its best: batches, its fast queue, a few workers.

python litserve_peer.py MODELS PORT WORKERS THREADS BATCH
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np

from serving.frames import decode_bytes
from serving.pairs.pair import find_pair
from serving.scorer import Scorer

MODELS, PORT, WORKERS, THREADS, BATCH = Path(sys.argv[1]), *map(int, sys.argv[2:6])


class ScoringAPI(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.scorer = Scorer(find_pair(MODELS), threads=THREADS, max_batch=BATCH)
        self.scorer.warm_up()
        self.side = self.scorer.pair.manifest.image_size

    # LitServe reads what stands at `request`; without an annotation it passes the parsed multipart body.
    def decode_request(self, request) -> np.ndarray:  # type: ignore[no-untyped-def]
        return decode_bytes(request["image"].file.read(), self.side)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, frames: np.ndarray) -> Any:
        return self.scorer.score(frames).score

    def unbatch(self, output: np.ndarray) -> list[float]:
        return output.tolist()

    def encode_response(self, output: float) -> dict[str, float]:
        return {"score": output}


if __name__ == "__main__":
    api = ScoringAPI(max_batch_size=BATCH, batch_timeout=0.005, api_path="/predict")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS, fast_queue=True)
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)

"""Asks the model `rag` over gRPC: ADDRESS REQUEST_ID TRACEPARENT [UNKNOWN_TENSOR]. Prints the status of the call.

A program of its own: the stubs of tritonclient and of KServe cannot be in one process.
"""

from __future__ import annotations

import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

address, request_id, traceparent, *unknown = sys.argv[1:]
text = triton.InferInput("input", [1, 1], "BYTES")
text.set_data_from_numpy(np.array([[b"How long is the warranty?"]], object))
tokens = triton.InferInput("max_tokens", [1, 1], "INT32")
tokens.set_data_from_numpy(np.array([[4]], np.int32))
inputs = [text, tokens]
for name in unknown:
    inputs.append(triton.InferInput(name, [1, 1], "INT32"))
    inputs[-1].set_data_from_numpy(np.array([[4]], np.int32))
with triton.InferenceServerClient(address) as client:
    try:
        client.infer("rag", inputs, headers={"x-request-id": request_id, "traceparent": traceparent})
        print("OK")
    except InferenceServerException as error:
        print(error.status())

"""Answers like vLLM's backend: with its sampling parameters, word by word if it streams, or from a script."""

import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
import scripted


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            self._answer(request, request.get_response_sender())

    def _answer(self, request, sender):
        prompt = self._value(request, "text_input").decode()
        streaming = bool(self._value(request, "stream"))
        exclude = self._value(request, "exclude_input_in_output")
        if len(prompt) > 10_000:
            error = pb.TritonError(
                "Error generating stream: The prompt is longer than the maximum model length of 2048."
            )
            sender.send(pb.InferenceResponse(error=error), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        sampling = self._value(request, "sampling_parameters").decode()
        words, end = [" ", *(word + " " for word in sampling.split(" "))], "length"
        parameters = json.loads(sampling)
        greedy = parameters.get("temperature") == 0 or parameters.get("top_k") == 1
        known = scripted.answer(prompt, parameters["max_tokens"], parameters.get("seed", 0), greedy)
        if known is not None:
            words, end = known
            for stop in parameters.get("stop", ()):
                if stop in "".join(words):
                    words, end = ["".join(words).split(stop)[0]], "stop"
        pieces = words if streaming else ["".join(words)]
        if not (streaming if exclude is None else exclude):
            pieces[0] = prompt + pieces[0]
        for number, piece in enumerate(pieces, 1):
            last = number == len(pieces)
            outputs = [pb.Tensor("text_output", np.array([piece.encode()], dtype=object))]
            if self._value(request, "return_finish_reason"):
                known = {"aborts": "abort", "ends early": "None"}
                reason = known.get(prompt, end) if last else "None"
                outputs.append(pb.Tensor("finish_reason", np.array([reason.encode()], dtype=object)))
            if self._value(request, "return_num_input_tokens"):
                outputs.append(pb.Tensor("num_input_tokens", np.array([3], dtype=np.uint32)))
            if self._value(request, "return_num_output_tokens"):
                count = 1 if streaming else len(words)
                outputs.append(pb.Tensor("num_output_tokens", np.array([count], dtype=np.uint32)))
            if self._value(request, "return_cumulative_logprob"):
                outputs.append(pb.Tensor("cumulative_logprob", np.array([-1.5], dtype=np.float32)))
            flags = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
            sender.send(pb.InferenceResponse(output_tensors=outputs), flags=flags)

    def _value(self, request, name):
        tensor = pb.get_input_tensor_by_name(request, name)
        return None if tensor is None else tensor.as_numpy()[0]

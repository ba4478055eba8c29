"""Answers with its inputs: the prompt, then the other tensors as JSON; or from a script."""

import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
import scripted


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self._names = [tensor["name"] for tensor in config["input"]]
        self._outputs = {tensor["name"] for tensor in config["output"]}

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        sent = {}
        for name in self._names:
            tensor = pb.get_input_tensor_by_name(request, name)
            if tensor is not None:
                array = tensor.as_numpy()
                values = [v.decode() if isinstance(v, bytes) else v for v in array.ravel().tolist()]
                sent[name] = {"shape": list(array.shape), "data": values}
        prompt = sent.pop("text_input")["data"][0]
        if len(prompt) > 10_000:
            return pb.InferenceResponse(
                error=pb.TritonError("Prompt length (9000) exceeds maximum input length (4096)")
            )
        max_tokens = sent["max_tokens"]["data"][0]
        seed = sent.get("seed", sent.get("random_seed", {"data": [0]}))["data"][0]
        known = scripted.answer(prompt, max_tokens, seed, greedy=sent.get("top_k", {"data": [0]})["data"][0] == 1)
        text, tokens = " " + json.dumps(sent), max_tokens
        if known is not None:
            text, tokens = "".join(known[0]), len(known[0])
        if not sent.get("exclude_input_in_output", {"data": [False]})["data"][0]:
            text = prompt.replace("<s>", "") + text
        if "<unused>" in prompt:
            text = "an answer</s>and what follows"
        outputs = [pb.Tensor("text_output", np.array([[text.encode()]], dtype=object))]
        outputs.append(pb.Tensor("cum_log_probs", np.array([[-1.5]], dtype=np.float32)))
        outputs.append(pb.Tensor("output_log_probs", np.array([[[-0.5, -1.0]]], dtype=np.float32)))
        if "num_output_tokens" in self._outputs:
            outputs.append(pb.Tensor("num_input_tokens", np.array([[7]], dtype=np.int32)))
            outputs.append(pb.Tensor("num_output_tokens", np.array([[tokens]], dtype=np.int32)))
        return pb.InferenceResponse(output_tensors=outputs)

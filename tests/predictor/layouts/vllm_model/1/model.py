"""Answers with the sampling parameters that it was sent: word by word where it streams, as vLLM's backend does."""

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            self._answer(request, request.get_response_sender())

    def _answer(self, request, sender):
        prompt = self._value(request, "text_input").decode()
        streaming = bool(self._value(request, "stream"))
        exclude = self._value(request, "exclude_input_in_output")
        if "exceeds" in prompt:
            error = pb.TritonError(
                "Error generating stream: The prompt is longer than the maximum model length of 2048."
            )
            sender.send(pb.InferenceResponse(error=error), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        words = ["", *self._value(request, "sampling_parameters").decode().split(" ")]
        pieces = [word + " " for word in words] if streaming else [" ".join(words) + " "]
        if not (streaming if exclude is None else exclude):
            pieces[0] = prompt + pieces[0]
        for piece in pieces:
            last = piece is pieces[-1]
            if "breaks" in prompt and last:
                error = pb.TritonError("Error generating stream: CUDA error")
                sender.send(pb.InferenceResponse(error=error), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                return
            if "silent" in prompt and last:
                sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                return
            outputs = [pb.Tensor("text_output", np.array([piece.encode()], dtype=object))]
            if self._value(request, "return_finish_reason"):
                reason = ("abort" if "aborts" in prompt else "length") if last else "None"
                outputs.append(pb.Tensor("finish_reason", np.array([reason.encode()], dtype=object)))
            if self._value(request, "return_num_input_tokens"):
                outputs.append(pb.Tensor("num_input_tokens", np.array([3], dtype=np.uint32)))
            if self._value(request, "return_num_output_tokens"):
                count = 1 if streaming else len(words)
                outputs.append(pb.Tensor("num_output_tokens", np.array([count], dtype=np.uint32)))
            flags = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
            sender.send(pb.InferenceResponse(output_tensors=outputs), flags=flags)

    def _value(self, request, name):
        tensor = pb.get_input_tensor_by_name(request, name)
        return None if tensor is None else tensor.as_numpy()[0]

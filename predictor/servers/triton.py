"""Clients of LLMs inside Triton. A `Layout` describes the tensors of one kind of model and how it streams.

To support another kind of model, add a `Layout` and an entry point for its `connect`.

Source: TensorRT-LLM `triton_backend/all_models/llmapi` (llmapi) and, up to 1.2, `inflight_batcher_llm` (ensemble,
tensorrt_llm_bls); Triton's `vllm_backend` (vllm).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, InvalidRequestError, ServiceError
from chassis.http import HttpUpstream
from predictor.servers.base import (
    NEUTRAL,
    PARAMETERS,
    AnswerState,
    Capabilities,
    Options,
    caller_error,
    failure,
    parse_event,
    refuse_options,
    sent_fields,
    token_count,
    whole_answer,
)
from predictor.wire import GenerationChunk, GenerationRequest

_CANCELLED = "cancelled by client"
"""Triton's message for a cancelled request. `generate_stream` sends it with status 200 or 400."""

_PROMPT_TOKENS, _COMPLETION_TOKENS = "num_input_tokens", "num_output_tokens"
"""Outputs with the numbers of tokens in the prompt and in the answer."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and meaning of the tensors of one kind of Triton model.

    The models of a layout vary with version and configuration. A layout names the tensors of all versions; the client
    sends those that the model declares.
    """

    model: str
    """Default name of the model that takes text."""
    decoupled: bool
    """True: `generate_stream`, with a response per step. False: `infer`, with one response."""
    cumulative: bool
    """Whether each response has the text and token counts from the beginning of the answer."""
    inputs: Mapping[str, tuple[str, ...]]
    """Field of `GenerationRequest` → names of its tensor, the newest version's first."""
    switches: Mapping[str, Any]
    """Tensor → its value in every request, if the model declares the tensor."""
    log_prob_switches: Mapping[str, Any]
    """Tensor → its value in requests for log-probabilities, if the model declares the tensor."""
    optional_inputs: frozenset[str] = frozenset()
    """Fields that only some versions of a decoupled model accept. `generate_stream` silently ignores unknown inputs, so
    the client checks the model's declaration before it sends one."""
    greedy: Mapping[str, int] = field(default_factory=dict)
    """Fields sent at temperature 0 instead of temperature, top_k and top_p. Empty: no change."""
    timeout_parameter: str | None = None
    """Request parameter with the milliseconds left for the answer; None if the model has none."""
    all_tokens: int = 0
    """Value of top_k that considers all tokens."""
    sampling_json: str | None = None
    """Tensor that takes all parameters as a JSON object; `inputs` then has the names in that object."""
    finish_reason: str | None = None
    """Output with the finish reason; None if the model has none."""
    cumulative_log_prob: str = "cumulative_logprob"
    """Output with the log-probability of the whole text so far."""
    output_log_probs: str | None = None
    """Output with the log-probabilities of the response's tokens; None if the model has none."""

    @property
    def capabilities(self) -> Capabilities:
        """Capabilities of all models of this layout."""
        return Capabilities(
            prompt="text",
            streams=self.decoupled,
            log_probs="answer" if self.output_log_probs is None else "tokens",
        )

    def connect(self, base_url: str, model: str | None, options: Options | None = None) -> TritonServer:
        """A client of a Triton model with this layout. The entry points refer to this method."""
        refuse_options(options)
        return TritonServer(base_url, model or self.model, self)


def _inputs(prefix: str = "", **others: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    names = {name: (f"{prefix}{name}",) for name in PARAMETERS}
    return {"prompt": ("text_input",), **names, **others}


LLMAPI = Layout(
    model="tensorrt_llm",
    decoupled=True,
    cumulative=True,
    inputs=_inputs("sampling_param_"),
    switches={"streaming": True, "sampling_param_exclude_input_from_output": True, "return_finish_reason": True},
    log_prob_switches={"return_cumulative_logprob": True},
    # Our CPU model has this input; TensorRT-LLM's model does not.
    optional_inputs=frozenset({"repetition_penalty"}),
    # Triton passes it to any model; TensorRT-LLM's ignores it.
    timeout_parameter="timeout_ms",
    finish_reason="finish_reason",
)
ENSEMBLE = Layout(
    model="ensemble",
    decoupled=False,
    cumulative=True,
    inputs=_inputs(stop=("stop_words",), seed=("seed", "random_seed")),
    switches={"exclude_input_in_output": True, "return_num_input_tokens": True, "return_num_output_tokens": True},
    log_prob_switches={"return_log_probs": True},
    # The meaning of temperature 0 depends on the version.
    greedy={"top_k": 1},
    cumulative_log_prob="cum_log_probs",
    output_log_probs="output_log_probs",
)
BLS = dataclasses.replace(ENSEMBLE, model="tensorrt_llm_bls")
VLLM = Layout(
    model="vllm_model",
    decoupled=True,
    cumulative=False,
    inputs=_inputs(),
    switches={
        "stream": True,
        "exclude_input_in_output": True,
        "return_finish_reason": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
    },
    log_prob_switches={"return_cumulative_logprob": True},
    all_tokens=-1,  # early versions reject 0
    sampling_json="sampling_parameters",
    finish_reason="finish_reason",
)

LAYOUTS: Mapping[str, Layout] = {"llmapi": LLMAPI, "ensemble": ENSEMBLE, "tensorrt_llm_bls": BLS, "vllm": VLLM}
"""Name of the entry point → layout."""


@dataclass(frozen=True, slots=True)
class _Declaration:
    """The tensors of a model, from its metadata."""

    inputs: Mapping[str, tuple[str, int]]
    """Name → datatype and rank."""
    outputs: frozenset[str]


_MAX_CONNECTION_AGE_S = 1
"""Triton waits for open connections before it exits, and still serves them: they must end soon."""


class TritonServer:
    """Client of one Triton model."""

    def __init__(self, base_url: str, model: str, layout: Layout) -> None:
        self.capabilities = layout.capabilities
        self.model = model
        self._layout = layout
        self._path = f"/v2/models/{model}"
        self._upstream = HttpUpstream(
            base_url, name="predictor", honours_sampling=False, max_connection_age_s=_MAX_CONNECTION_AGE_S
        )
        self._declaration: _Declaration | None = None

    async def stream(self, request: GenerationRequest, ctx: CallContext) -> AsyncGenerator[GenerationChunk, None]:
        """See `LlmServer.stream`. A layout that cannot stream yields one chunk."""
        layout, answer = self._layout, AnswerState(request)
        fields = sent_fields(request, layout.inputs, greedy=layout.greedy)
        if fields.get("top_k") == 0:
            fields["top_k"] = layout.all_tokens
        switches = {**layout.switches, **layout.log_prob_switches} if request.log_probs else layout.switches
        with self._translating():
            if not layout.decoupled:
                body = self._infer_body(fields, switches, await self._declared(ctx))
                self._take(answer, _named_outputs(await self._upstream.post_json(f"{self._path}/infer", body, ctx)))
                yield whole_answer(answer, request)
                return
            if not layout.optional_inputs.isdisjoint(fields):
                self._tensors(fields, await self._declared(ctx))
            body = self._generate_body(fields, switches)
            if layout.timeout_parameter is not None:
                body[layout.timeout_parameter] = max(1, int(ctx.remaining_s() * 1000))
            events = self._upstream.stream_events(f"{self._path}/generate_stream", body, ctx)
            async with contextlib.aclosing(events):
                async for event in events:
                    text = self._take(answer, parse_event(event))
                    if text:
                        yield GenerationChunk(text)
        yield answer.last_chunk()

    async def health(self, ctx: CallContext) -> None:
        """See `LlmServer.health`."""
        self._declaration = await self._describe(ctx)

    async def aclose(self) -> None:
        """Closes the pooled connections."""
        await self._upstream.aclose()

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except ServiceError as error:
            self._declaration = None  # the model may have been replaced by one with other inputs
            raise caller_error(error, self._layout.inputs) from error

    async def _declared(self, ctx: CallContext) -> _Declaration:
        if self._declaration is None:
            self._declaration = await self._describe(ctx)
        return self._declaration

    async def _describe(self, ctx: CallContext) -> _Declaration:
        metadata = await self._upstream.get_json(self._path, ctx)
        try:
            return _Declaration(
                {each["name"]: (each["datatype"], len(each["shape"])) for each in metadata["inputs"]},
                frozenset(each["name"] for each in metadata["outputs"]),
            )
        except (KeyError, TypeError) as error:
            raise BadUpstreamError("The predictor's model metadata does not follow the v2 protocol.") from error

    def _tensors(self, fields: Mapping[str, Any], declaration: _Declaration) -> dict[str, Any]:
        """Tensor → value. Raises InvalidRequestError if the model has no input for a value that has an effect."""
        tensors = {}
        for name, value in fields.items():
            tensor = next((tensor for tensor in self._layout.inputs[name] if tensor in declaration.inputs), None)
            if tensor is not None:
                tensors[tensor] = value
            elif value != NEUTRAL.get(name):
                raise InvalidRequestError(
                    f"{name} is {value}, but this predictor's model has no input for it. Leave it out.", field=name
                )
        return tensors

    def _generate_body(self, fields: Mapping[str, Any], switches: Mapping[str, Any]) -> dict[str, Any]:
        layout = self._layout
        named = {layout.inputs[name][0]: list(value) if name == "stop" else value for name, value in fields.items()}
        if layout.sampling_json is None:
            return {**switches, **named}
        prompt = layout.inputs["prompt"][0]
        return {**switches, prompt: named.pop(prompt), layout.sampling_json: orjson.dumps(named).decode()}

    def _infer_body(
        self, fields: Mapping[str, Any], switches: Mapping[str, Any], declaration: _Declaration
    ) -> dict[str, Any]:
        layout, inputs = self._layout, []
        declared_switches = {tensor: value for tensor, value in switches.items() if tensor in declaration.inputs}
        for tensor, value in (declared_switches | self._tensors(fields, declaration)).items():
            datatype, rank = declaration.inputs[tensor]
            data = list(value) if isinstance(value, tuple) else [value]
            shape = [1] * (rank - 1) + [len(data)]
            inputs.append({"name": tensor, "datatype": datatype, "shape": shape, "data": data})
        outputs = ["text_output", layout.finish_reason, _PROMPT_TOKENS, _COMPLETION_TOKENS]
        if layout.log_prob_switches.keys() & switches.keys():
            outputs += [layout.cumulative_log_prob, layout.output_log_probs]
        return {"inputs": inputs, "outputs": [{"name": name} for name in outputs if name in declaration.outputs]}

    def _take(self, answer: AnswerState, response: Mapping[str, Any]) -> str:
        """Reads one response; returns the text that it adds."""
        layout = self._layout
        if "error" in response:
            reason = str(response["error"])
            if _CANCELLED not in reason:
                raise failure(reason)
            answer.finish_reason = "cancelled"
            return ""
        if layout.finish_reason is not None and layout.finish_reason in response:
            answer.set_finish_reason(_first(response[layout.finish_reason]))
        if _PROMPT_TOKENS in response:
            answer.prompt_tokens = token_count(_first(response[_PROMPT_TOKENS]))
        if _COMPLETION_TOKENS in response:
            tokens = token_count(_first(response[_COMPLETION_TOKENS]))
            answer.completion_tokens = tokens if layout.cumulative else (answer.completion_tokens or 0) + tokens
        if layout.output_log_probs is not None and layout.output_log_probs in response:
            answer.add_log_probs(response[layout.output_log_probs] or ())
        if layout.cumulative_log_prob in response:
            answer.set_cumulative_log_prob(_first(response[layout.cumulative_log_prob]))
        text = _first(response.get("text_output"))
        return answer.add_text_so_far(text) if layout.cumulative else answer.add_text(text)


def _named_outputs(response: Any) -> dict[str, Any]:
    try:
        return {output["name"]: output["data"] for output in response["outputs"]}
    except (KeyError, TypeError) as error:
        raise BadUpstreamError("The predictor's response does not follow the v2 protocol.") from error


def _first(value: Any) -> Any:
    """The first element of a tensor, which Triton writes as a list, or as a scalar if it has one element."""
    return value[0] if isinstance(value, list) and value else value

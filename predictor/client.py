"""The only door to the predictor: prompts in, text out, whichever LLM server answers."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from chassis import tracing
from chassis.context import CallContext, CallSpan
from chassis.errors import BadUpstreamError, InvalidRequestError, NotReadyError, ServiceError
from chassis.http import HttpUpstream
from predictor.prompt import PromptFormat
from predictor.wire import LAYOUTS, FinishReason, GenerationChunk, GenerationRequest, Layout, LayoutName

GENERATION = tracing.SpanType(
    "text_completion {gen_ai.request.model}",
    "client",
    "A prompt sent to the LLM, by its client. The event `first_token` marks the first token.",
    (
        "gen_ai.operation.name",
        "gen_ai.request.model",
        "gen_ai.request.max_tokens",
        "gen_ai.request.temperature",
        "gen_ai.request.top_k",
        "gen_ai.request.top_p",
        "gen_ai.request.seed",
        "gen_ai.request.stream",
        "gen_ai.response.finish_reasons",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "kserve_rag.prompt.chars",
    ),
)

__all__ = ["PredictorClient", "PromptFormat"]

_FINISH_REASONS: Mapping[str, FinishReason | None] = {
    "None": None,
    "": None,
    "length": "length",
    "cancelled": "cancelled",
    "timeout": "cancelled",
    "abort": "cancelled",
}
"""What servers call an end. Every other word is an end of the model's own choosing."""

_RANGES: Mapping[str, tuple[float, float]] = {
    "max_tokens": (1, 2**31 - 1),
    "temperature": (0, 100),
    "top_k": (0, 2**31 - 1),
    "top_p": (0, 1),
    "seed": (0, 2**64 - 1),
    "repetition_penalty": (0.01, 10),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
"""What every server takes. Out of it lies what its tensors cannot hold, or what it would answer with an internal
error."""

_FRACTIONS = frozenset({"temperature", "top_p", "repetition_penalty", "presence_penalty", "frequency_penalty"})
_NEUTRAL: Mapping[str, float] = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Values that say nothing: they need no server that understands them."""

_TOO_LONG = re.compile(
    r"\b(prompt|input|sequence)\b.*\b(exceed|longer|too long|larger|greater)"
    r"|\bexceeds?\b.*\b(max_\w+|context|window)"
    r"|\bmaximum (context|sequence|model) length"
    r"|\btokens\b.*\bmust be <= \d",
    re.IGNORECASE | re.DOTALL,
)
_NOT_NOW = re.compile(r"unknown model|not ready|not healthy|try again|has stopped|maximum queue size", re.IGNORECASE)
_CANCELLED = "cancelled by client"
"""What servers say where their status does not tell: Triton's `generate_stream` and trtllm-serve answer 400 to every
failure, and 200 once they have begun."""

_DONE = "[DONE]"
"""The last event of OpenAI's streams."""

_COUNTS = {"prompt_tokens", "completion_tokens"}

_CONTROL_TOKEN = re.compile(r"<[^<>\s]{1,40}>")


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An input as a model declares it."""

    datatype: str
    rank: int


@dataclass(frozen=True, slots=True)
class _Declaration:
    """What a model says of itself."""

    inputs: Mapping[str, _Tensor]
    outputs: frozenset[str]


class PredictorClient:
    """Speaks to one model of one LLM server. Safe for any number of concurrent requests.

    Args:
        base_url: of Triton, of an OpenAI-compatible server (without `/v1`), or of the InferenceService in front of it.
        layout: what the server's tensors are named; see `LAYOUTS`.
        model: name of the model, where it is not the layout's own.
    """

    def __init__(self, base_url: str, *, layout: LayoutName = "llmapi", model: str | None = None) -> None:
        self._layout = LAYOUTS[layout]
        self._model = model or self._layout.model
        self._path = f"/v2/models/{self._model}"
        self._upstream = HttpUpstream(base_url, name="predictor", honours_sampling=False)
        self._declaration: _Declaration | None = None
        self._listed: str | None = None

    async def aclose(self) -> None:
        """Closes the pooled connections."""
        await self._upstream.aclose()

    async def not_ready_reason(self, ctx: CallContext) -> str | None:
        """Why no prompt can be answered now; None when one can."""
        try:
            if self._layout.protocol == "openai":
                await self._upstream.get_bytes("/health", ctx)
                self._listed = await self._list(ctx)
            else:
                self._declaration = await self._describe(ctx)
        except ServiceError as error:
            return error.message
        return None

    async def stream(self, request: GenerationRequest, ctx: CallContext) -> AsyncGenerator[GenerationChunk, None]:
        """Yields the answer as it grows. The last chunk, and only that, has a finish reason.

        Closing the iterator closes the connection, which ends the generation. A layout that cannot stream gives one
        chunk.

        Raises:
            InvalidRequestError: a parameter is out of range or unknown to this server, or the prompt is too long.
            NotReadyError: the model is not loaded, its queue is full, or it cannot be reached.
            BadUpstreamError: the server failed, answered nonsense, or broke off.
            DeadlineExceededError: the deadline passed first.
        """
        fields, answer = _fields(request, self._layout), _Answer(self._layout, request)
        with self._span(ctx) as span:
            if self._layout.decoupled:
                begun = False
                async with contextlib.aclosing(self._pieces(fields, answer, span.ctx)) as pieces:
                    async for piece in pieces:
                        if not begun:
                            begun = True
                            span.event("first_token")
                        yield GenerationChunk(piece)
                last = answer.end()
            else:
                last = await self._infer(fields, answer, span.ctx)
            self._tell(span, request, last, streamed=self._layout.decoupled)
        yield last

    async def generate(self, request: GenerationRequest, ctx: CallContext) -> GenerationChunk:
        """The whole answer as one chunk. Cancelling the call ends the generation. Raises what `stream` raises.

        It is streamed all the same: Triton notices that a client has left only when it writes to it.
        """
        fields, answer = _fields(request, self._layout), _Answer(self._layout, request)
        with self._span(ctx) as span:
            if self._layout.decoupled:
                async with contextlib.aclosing(self._pieces(fields, answer, span.ctx)) as pieces:
                    async for _ in pieces:
                        pass
                whole = answer.whole()
            else:
                whole = await self._infer(fields, answer, span.ctx)
            self._tell(span, request, whole, streamed=False)
        return whole

    def _span(self, ctx: CallContext) -> CallSpan:
        return ctx.span(GENERATION, f"text_completion {self._model}" if self._model else "text_completion")

    def _tell(self, span: CallSpan, request: GenerationRequest, chunk: GenerationChunk, *, streamed: bool) -> None:
        if not span.recording:
            return
        span.set("gen_ai.operation.name", "text_completion")
        span.set("gen_ai.request.model", self._model)
        span.set("gen_ai.request.max_tokens", request.max_tokens)
        span.set("gen_ai.request.temperature", request.temperature)
        span.set("gen_ai.request.top_k", request.top_k)
        span.set("gen_ai.request.top_p", request.top_p)
        span.set("gen_ai.request.seed", request.seed)
        span.set("gen_ai.request.stream", streamed)
        span.set("gen_ai.response.finish_reasons", (chunk.finish_reason,) if chunk.finish_reason else None)
        span.set("gen_ai.usage.input_tokens", chunk.prompt_tokens)
        span.set("gen_ai.usage.output_tokens", chunk.completion_tokens)
        span.set("kserve_rag.prompt.chars", len(request.prompt))

    async def _pieces(self, fields: Mapping[str, Any], answer: _Answer, ctx: CallContext) -> AsyncGenerator[str, None]:
        with self._translating():
            if not self._layout.sometimes.isdisjoint(fields):
                _tensors(fields, self._layout, await self._declared(ctx))
            path, body = f"{self._path}/generate_stream", _generate_body(fields, self._layout, answer.switches)
            is_openai = self._layout.protocol == "openai"
            if is_openai:
                path, body["model"] = "/v1/completions", await self._named(ctx)
            events = self._upstream.stream_events(path, body, ctx)
            async with contextlib.aclosing(events):
                async for event in events:
                    if is_openai and event == _DONE:
                        continue  # the connection is read to its end, so that it can be used again
                    response = _parsed(event)
                    piece = answer.take(_flat(response) if is_openai else response)
                    if piece:
                        yield piece

    async def _infer(self, fields: Mapping[str, Any], answer: _Answer, ctx: CallContext) -> GenerationChunk:
        with self._translating():
            body = _infer_body(fields, self._layout, answer.switches, await self._declared(ctx))
            answer.take(_named_outputs(await self._upstream.post_json(f"{self._path}/infer", body, ctx)))
        return answer.whole_of_infer()

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except ServiceError as error:
            # The server may have been replaced by one that declares other inputs, or has another model.
            self._declaration = self._listed = None
            raise _translated(error, self._layout) from error

    async def _declared(self, ctx: CallContext) -> _Declaration:
        if self._declaration is None:
            self._declaration = await self._describe(ctx)
        return self._declaration

    async def _describe(self, ctx: CallContext) -> _Declaration:
        metadata = await self._upstream.get_json(self._path, ctx)
        try:
            return _Declaration(
                {each["name"]: _Tensor(each["datatype"], len(each["shape"])) for each in metadata["inputs"]},
                frozenset(each["name"] for each in metadata["outputs"]),
            )
        except (KeyError, TypeError) as error:
            raise BadUpstreamError("The predictor's description of its model is not that of a Triton model.") from error

    async def _named(self, ctx: CallContext) -> str:
        """The model to ask for: a server of one model is not told its name twice."""
        if self._model is not None:
            return self._model
        if self._listed is None:
            self._listed = await self._list(ctx)
        return self._listed

    async def _list(self, ctx: CallContext) -> str:
        """The model of the setting, which has to be in the server's list, or else the first there."""
        answer = await self._upstream.get_json("/v1/models", ctx)
        try:
            names = [str(each["id"]) for each in answer["data"]]
        except (KeyError, TypeError) as error:
            raise BadUpstreamError("The predictor's list of models is not that of an OpenAI server.") from error
        if not names:
            raise NotReadyError("The predictor lists no model.")
        if self._model is not None and self._model not in names:
            raise NotReadyError(f"The predictor has no model {self._model!r}: it has {', '.join(names[:5])}.")
        return self._model or names[0]


class _Answer:
    """Grows the text of one answer out of a server's responses."""

    def __init__(self, layout: Layout, request: GenerationRequest) -> None:
        self._layout = layout
        self._request = request
        self._text = ""
        self._finish_reason: FinishReason | None = None
        self._tells_reasons = False
        self._responses = 0
        self._prompt_tokens: int | None = None
        self._completion_tokens: int | None = None
        self._cumulative_log_prob: float | None = None
        self._output_log_probs: list[float] = []

    @property
    def switches(self) -> Mapping[str, Any]:
        """What is set beside the request's own fields."""
        layout = self._layout
        return {**layout.switches, **layout.log_probs} if self._request.log_probs else layout.switches

    def take(self, response: Mapping[str, Any]) -> str:
        """Reads one response: what it adds to the text.

        Raises:
            ServiceError: it is an error, or no response of this layout.
        """
        layout = self._layout
        self._responses += 1
        if "error" in response:
            self._take_error(str(response["error"]))
            return ""
        if layout.finish_reason is not None and layout.finish_reason in response:
            self._tells_reasons = True
            word = _first(response[layout.finish_reason])
            if word == "error":
                raise BadUpstreamError("The predictor failed while it answered.")
            self._finish_reason = _FINISH_REASONS.get(word, "stop") if isinstance(word, str) else None
        if layout.prompt_tokens is not None and layout.prompt_tokens in response:
            self._prompt_tokens = _count(response[layout.prompt_tokens])
        if layout.completion_tokens is not None and layout.completion_tokens in response:
            tokens = _count(response[layout.completion_tokens])
            self._completion_tokens = (self._completion_tokens or 0) + tokens if layout.counts_deltas else tokens
        if self._request.log_probs:
            self._take_log_probs(response)
        text = _first(response.get("text_output"))
        if not isinstance(text, str):
            raise BadUpstreamError("The predictor's answer has no text_output.")
        return self._grow(text)

    def end(self) -> GenerationChunk:
        """The last chunk of a stream.

        Raises:
            BadUpstreamError: the server stopped before it had come to an end.
        """
        reason, log_probs = self._end_reason(), tuple(self._output_log_probs)
        cumulative = sum(log_probs) if self._cumulative_log_prob is None and log_probs else self._cumulative_log_prob
        return GenerationChunk("", reason, self._prompt_tokens, self._completion_tokens, cumulative, log_probs)

    def whole(self) -> GenerationChunk:
        """The answer in one chunk. Raises what `end` raises."""
        return dataclasses.replace(self.end(), text=self._text)

    def whole_of_infer(self) -> GenerationChunk:
        """The answer of a server that does not stream, without the prompt and the stop string that it may hold."""
        text = without_echo(self._text, self._request.prompt)
        cuts = [at for stop in self._request.stop if (at := text.find(stop)) >= 0]
        end = self.end()
        if cuts:
            return dataclasses.replace(end, text=text[: min(cuts)], finish_reason="stop")
        return dataclasses.replace(end, text=text)

    def _grow(self, text: str) -> str:
        if not self._layout.cumulative:
            self._text += text
            return text
        if self._finish_reason is None:
            text = text.rstrip("�")  # half a character, that the next response completes
        before = self._text
        if not text.startswith(before):
            if before.startswith(text):
                return ""
            raise BadUpstreamError("The predictor changed text that it had sent before.")
        self._text = text
        return text[len(before) :]

    def _take_log_probs(self, response: Mapping[str, Any]) -> None:
        layout = self._layout
        try:
            if layout.cumulative_log_prob is not None and layout.cumulative_log_prob in response:
                self._cumulative_log_prob = float(_first(response[layout.cumulative_log_prob]))
            if layout.output_log_probs is not None:
                # OpenAI's has none for a token that nothing stands before.
                self._output_log_probs += [float(each or 0) for each in response.get(layout.output_log_probs) or ()]
        except (TypeError, ValueError) as error:
            raise BadUpstreamError("The predictor told log-probabilities that are no numbers.") from error

    def _take_error(self, reason: str) -> None:
        if _CANCELLED in reason:
            self._finish_reason = "cancelled"
            return
        error = BadUpstreamError("The predictor failed while it answered.")
        error.upstream_reason = reason
        raise error

    def _end_reason(self) -> FinishReason:
        if self._finish_reason is not None:
            return self._finish_reason
        if self._responses == 0 or self._tells_reasons:
            raise BadUpstreamError("The predictor broke off its answer.")
        # A server that gives no reasons.
        return "length" if (self._completion_tokens or 0) >= self._request.max_tokens else "stop"


def without_echo(text: str, prompt: str) -> str:
    """`text` without `prompt` at its beginning, which servers without a switch for it put there.

    Tokenizers there and back lose control tokens and change spaces, so these may differ. A text that does not begin
    with the prompt stays as it is.
    """
    if text.startswith(prompt):
        return text[len(prompt) :]
    at = there = 0
    while there < len(prompt):
        if prompt[there].isspace():
            there += 1
        elif at < len(text) and text[at].isspace():
            at += 1
        elif at < len(text) and text[at] == prompt[there]:
            at, there = at + 1, there + 1
        elif marker := _CONTROL_TOKEN.match(prompt, there):
            there = marker.end()
        else:
            return text
    return text[at:]


def _fields(request: GenerationRequest, layout: Layout) -> dict[str, Any]:
    """What the request says, checked, as this layout's servers take it."""
    if not request.prompt:
        raise InvalidRequestError("The prompt is empty.", field="prompt")
    _check_unicode("prompt", request.prompt)
    _check_unicode("stop", "".join(request.stop))
    if "" in request.stop:
        raise InvalidRequestError("A stop string is empty: leave it out.", field="stop")
    fields = {
        each.name: value
        for each in dataclasses.fields(request)
        if each.name in layout.inputs and (value := getattr(request, each.name)) is not None and value != ()
    }
    for name, (low, high) in _RANGES.items():
        if name in fields and not low <= fields[name] <= high:
            raise InvalidRequestError(f"{name} is {fields[name]}; it must be from {low} to {high}.", field=name)
    if layout.greedy and fields.get("temperature") == 0:
        fields = {name: fields[name] for name in fields if name not in ("temperature", "top_k", "top_p")}
        fields.update(layout.greedy)
    if fields.get("top_k") == 0:
        fields["top_k"] = layout.every_token
    return {name: float(value) if name in _FRACTIONS else value for name, value in fields.items()}


def _check_unicode(field: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{field} holds half of a surrogate pair.", field=field) from error


def _tensors(fields: Mapping[str, Any], layout: Layout, declaration: _Declaration) -> dict[str, Any]:
    """Tensor → value, for the names that the model declares.

    Raises:
        InvalidRequestError: the model has no input for something that matters.
    """
    tensors = {}
    for name, value in fields.items():
        tensor = next((tensor for tensor in layout.inputs[name] if tensor in declaration.inputs), None)
        if tensor is not None:
            tensors[tensor] = value
        elif value != _NEUTRAL.get(name):
            raise InvalidRequestError(
                f"{name} is {value}, but this predictor's model has no input for it. Leave it out.", field=name
            )
    return tensors


def _generate_body(fields: Mapping[str, Any], layout: Layout, switches: Mapping[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = dict(switches)
    named = {layout.inputs[name][0]: list(value) if name == "stop" else value for name, value in fields.items()}
    if layout.sampling_json is None:
        return body | named
    prompt = layout.inputs["prompt"][0]
    body[prompt] = named.pop(prompt)
    body[layout.sampling_json] = orjson.dumps(named).decode()
    return body


def _infer_body(
    fields: Mapping[str, Any], layout: Layout, switches: Mapping[str, Any], declaration: _Declaration
) -> dict[str, Any]:
    declared_switches = {tensor: value for tensor, value in switches.items() if tensor in declaration.inputs}
    inputs = []
    for tensor, value in (declared_switches | _tensors(fields, layout, declaration)).items():
        declared = declaration.inputs[tensor]
        data = list(value) if isinstance(value, tuple) else [value]
        shape = [1] * (declared.rank - 1) + [len(data)]
        inputs.append({"name": tensor, "datatype": declared.datatype, "shape": shape, "data": data})
    wanted = ["text_output", layout.finish_reason, layout.prompt_tokens, layout.completion_tokens]
    if layout.log_probs.keys() & switches.keys():
        wanted += [layout.cumulative_log_prob, layout.output_log_probs]
    return {"inputs": inputs, "outputs": [{"name": name} for name in wanted if name in declaration.outputs]}


def _named_outputs(response: Any) -> dict[str, Any]:
    try:
        return {output["name"]: output["data"] for output in response["outputs"]}
    except (KeyError, TypeError) as error:
        raise BadUpstreamError("The predictor's answer is not that of a Triton model.") from error


def _parsed(event: str) -> Mapping[str, Any]:
    try:
        response = orjson.loads(event)
    except orjson.JSONDecodeError as error:
        raise BadUpstreamError("The predictor sent an event that is not JSON.") from error
    if not isinstance(response, dict):
        raise BadUpstreamError("The predictor sent an event that is not a JSON object.")
    return response


def _flat(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event of OpenAI's completions in the words of the layout.

    Raises:
        BadUpstreamError: it is no such event.
    """
    if "error" in event or event.get("object") == "error":
        error = event.get("error", event)
        return {"error": error.get("message", "") if isinstance(error, dict) else error}
    try:
        choices, usage = event["choices"], event.get("usage") or {}
        flat: dict[str, Any] = {name: usage[name] for name in usage.keys() & _COUNTS}
        if choices == []:  # the counts come alone, after the end
            return flat | {"text_output": ""}
        first = choices[0]
        flat["token_logprobs"] = (first.get("logprobs") or {}).get("token_logprobs")
        return flat | {"text_output": first["text"], "finish_reason": first.get("finish_reason")}
    except (KeyError, TypeError, AttributeError) as error:
        raise BadUpstreamError("The predictor sent an event that is not one of OpenAI's completions.") from error


def _first(value: Any) -> Any:
    """Triton writes a tensor of one element as that element, any other as a list."""
    return value[0] if isinstance(value, list) and value else value


def _count(value: Any) -> int:
    count = _first(value)
    if not isinstance(count, int) or count < 0:
        raise BadUpstreamError(f"The predictor counted {str(count)[:40]} tokens.")
    return count


def _translated(error: ServiceError, layout: Layout) -> ServiceError:
    """The error as the caller should see it, from what the server said rather than from its status.

    Parameters have been checked before, so a failure that is neither about length, nor passing, nor about an input by
    name is the server's own.
    """
    reason = error.upstream_reason
    if not reason or not isinstance(error, (InvalidRequestError, BadUpstreamError)):
        return error
    first_line = reason.splitlines()[0][:300]
    if _NOT_NOW.search(reason):
        return NotReadyError(f"The predictor cannot answer now: {first_line}")
    told = error.field if error.field in layout.inputs else None
    field = "prompt" if _TOO_LONG.search(reason) else told or _named_field(reason, layout)
    if field is not None:
        return InvalidRequestError(f"The predictor refused the request: {first_line}", field=field)
    failure = BadUpstreamError("The predictor failed. Try again; if that does not help, its log has the reason.")
    failure.upstream_reason = reason
    return failure


def _named_field(reason: str, layout: Layout) -> str | None:
    # OpenAI's name for the text is a word like any other.
    names = ((field, tensor) for field, tensors in layout.inputs.items() for tensor in tensors if tensor != "prompt")
    return next((field for field, tensor in names if re.search(rf"\b{tensor}\b", reason)), None)

"""Several models, chosen by the request: the file that describes them, and every protocol's way to name one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
import yaml
from grpc import aio
from kserve import InferResponse
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from openai import AsyncOpenAI, NotFoundError

from chassis.settings import SettingError
from predictor.servers.bedrock import BedrockSettings
from predictor.servers.openai import OpenAiSettings
from tests.fakes.upstreams import WORDS, Upstreams
from tests.processes import free_ports
from tests.transformer.running import CHAT, GENERATE, STREAM, V1, Q, Running, events_of, message, transformer
from transformer.__main__ import build
from transformer.models import ModelsFile, read_models
from transformer.settings import TransformerSettings
from transformer.templates import PromptTemplate

KEY = "sk-of-the-file"
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "several-models.md"
COMPLETIONS, RESPONSES = "/v1/completions", "/v1/responses"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Upstreams, str, str]]:
    """Upstreams, and URL and gRPC address of a transformer with three models; `away` is down."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "key").write_text(f"{KEY}\n")
    grpc_port = str(free_ports(1)[0])
    with Upstreams() as upstreams:
        remote = f"server: openai_chat, url: '{upstreams.url}', model: gpt, context_tokens: 4096, max_tokens: 50"
        (folder / "models.yaml").write_text(
            "models:\n"
            f"- {{name: gpt, display_name: GPT, {remote}, template: short, defaults: {{temperature: 0.7, top_p: 1}},\n"
            '   options: {health_path: "", api_key_file: key}}\n'
            "- {name: away, server: openai_chat, url: 'http://127.0.0.1:9', context_tokens: 4096}\n"
        )
        (folder / "templates").mkdir()
        for name in ("short", "long"):
            text = f"{{description: Speaks, languages: [en], system: Be {name}., instruction: Answer {name}.}}"
            (folder / "templates" / f"{name}.yaml").write_text(text)
        settings = {
            "MODELS_FILE": str(folder / "models.yaml"),
            "TEMPLATES": str(folder / "templates"),
            "ENABLE_GRPC": "true",
            "GRPC_PORT": grpc_port,
        }
        with transformer(upstreams.url, upstreams.url, **settings) as url:
            yield upstreams, url, f"127.0.0.1:{grpc_port}"


@pytest_asyncio.fixture
async def service(running: tuple[Upstreams, str, str]) -> AsyncIterator[Running]:
    upstreams, url, address = running
    upstreams.reset()
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        yield Running(upstreams, client, address)


def request_of(path: str, model: str) -> dict[str, Any]:
    """A question to a model, in the shape of the route."""
    return {
        GENERATE: {"text_input": Q, "parameters": {"model": model}},
        STREAM: {"text_input": Q, "model": model},
        V1: {"instances": [{"input": Q, "model": model}]},
        CHAT: {"model": model, "messages": [{"role": "user", "content": Q}]},
        COMPLETIONS: {"model": model, "prompt": Q},
        RESPONSES: {"model": model, "input": Q},
    }[path]


ROUTES = (GENERATE, STREAM, V1, CHAT, COMPLETIONS, RESPONSES)


def answering(response: httpx.Response) -> str:
    """The name of the model in an answer."""
    if response.headers["content-type"].startswith("text/event-stream"):
        return str(events_of(response)[0]["model_name"])
    answer = response.json()
    answer = answer.get("predictions", [answer])[0]
    return str(answer["model_name"] if "model_name" in answer else answer["model"])


@pytest.mark.parametrize("path", ROUTES)
async def test_a_request_names_its_model(service: Running, path: str) -> None:
    answers = [await service.client.post(path, json=request_of(path, model)) for model in ("gpt", "rag")]
    assert [answering(answer) for answer in answers] == ["gpt", "rag"]
    (_, headers, remote), (_, _, own) = (seen for seen in service.upstreams.seen if seen[0] == "predictor")
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (remote["model"], remote["temperature"], remote["top_p"]) == ("gpt", 0.7, 1.0)
    assert own["sampling_param_temperature"] == 0.1


@pytest.mark.parametrize("path", ROUTES)
async def test_an_unknown_model_is_a_404_with_the_names(service: Running, path: str) -> None:
    refused = await service.client.post(path, json=request_of(path, "gpt-9"))
    assert refused.status_code == 404
    assert message(refused) == "model: there is no 'gpt-9'. This service has 'rag', 'gpt', 'away'."
    error = refused.json()["error"]
    assert (error["param"] if isinstance(error, dict) else refused.json()["field"]) == "model"
    assert service.upstreams.seen == []


@pytest.mark.parametrize("path", ROUTES)
async def test_a_model_that_is_down_is_a_503_that_names_it(service: Running, path: str) -> None:
    refused = await service.client.post(path, json=request_of(path, "away"))
    assert refused.status_code == 503
    assert message(refused).startswith("Model 'away': ")
    assert "retry-after" in refused.headers
    assert (await service.client.get("/v1/models/rag")).json()["ready"] is True
    assert (await service.client.get("/v2/models/rag/ready")).status_code == 200
    assert message(await service.client.get("/v1/models/away")).startswith("Model 'away': ")


async def test_models_over_grpc(service: Running) -> None:
    async def infer(model: str) -> bytes:
        request = ModelInferRequest(model_name="rag")
        question = request.inputs.add(name="input", datatype="BYTES", shape=[1, 1])
        question.contents.bytes_contents.append(Q.encode())
        request.parameters["model"].string_param = model
        answer = await GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
        tensors = {tensor.name: tensor.as_numpy()[0, 0] for tensor in InferResponse.from_grpc(answer).outputs}
        return bytes(tensors["text_output"])

    async with aio.insecure_channel(service.grpc) as channel:
        assert await infer("gpt") == "".join(WORDS).encode()
        assert service.upstreams.seen[-1][2]["model"] == "gpt"
        with pytest.raises(aio.AioRpcError) as refused:
            await infer("gpt-9")
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert "'rag', 'gpt', 'away'" in (refused.value.details() or "")


async def test_the_models_are_listed_with_their_names_and_defaults(service: Running) -> None:
    async with AsyncOpenAI(base_url=f"{service.client.base_url}/openai/v1", api_key="none") as openai:
        listed = [card async for card in openai.models.list()]
        assert (await openai.models.retrieve("gpt")).id == "gpt"
        with pytest.raises(NotFoundError, match="'rag', 'gpt', 'away'"):
            await openai.models.retrieve("gpt-9")
    assert [card.id for card in listed] == ["rag", "gpt", "away"]
    cards = (await service.client.get("/v1/models")).json()
    assert cards["models"] == ["rag"]
    assert [card["display_name"] for card in cards["data"]] == ["rag", "GPT", "away"]
    assert [card["defaults"]["temperature"] for card in cards["data"]] == [0.1, 0.7, 0.1]


async def test_a_conversation_goes_on_with_another_model(service: Running) -> None:
    first = (await service.client.post(GENERATE, json={"text_input": Q, "model": "gpt"})).json()
    body = {"text_input": "And for batteries?", "turns": first["turns"]}
    second = (await service.client.post(GENERATE, json=body)).json()
    assert (first["model_name"], second["model_name"]) == ("gpt", "rag")
    assert second["replayed"] == {"turns": 1, "left_out": 0, "incomplete": 0}


async def test_the_limit_of_a_model(service: Running) -> None:
    refused = await service.client.post(GENERATE, json={"text_input": Q, "model": "gpt", "max_tokens": 51})
    assert (refused.status_code, refused.json()["field"]) == (400, "max_tokens")
    assert message(refused) == "max_tokens is 51, but the model 'gpt' writes at most 50."
    await service.client.post(GENERATE, json={"text_input": Q, "model": "gpt"})
    assert service.upstreams.seen[-1][2]["max_tokens"] == 50, "the default, 512, is cut to the limit"


@pytest.mark.parametrize("path", ROUTES)
async def test_a_question_has_the_template_of_its_model_or_its_own(service: Running, path: str) -> None:
    own = request_of(path, "gpt")
    (own["instances"][0] if "instances" in own else own)["template"] = "long"
    for request, name in ((request_of(path, "gpt"), "short"), (own, "long")):
        await service.client.post(path, json=request)
        system, user = service.upstreams.seen[-1][2]["messages"]
        assert system["content"] == f"Be {name}."
        assert f"Answer {name}." in user["content"]
    (own["instances"][0] if "instances" in own else own)["template"] = "none"
    refused = await service.client.post(path, json=own)
    assert refused.status_code == 404
    assert message(refused) == "template: there is no 'none'. This service has 'default', 'long', 'short'."


async def test_templates_are_listed(service: Running) -> None:
    listed = (await service.client.get("/v1/templates")).json()["templates"]
    assert [card["name"] for card in listed] == ["default", "long", "short"]
    assert listed[1] == {"name": "long", "description": "Speaks", "languages": ["en"]}


ENTRY = "models:\n- {name: a, server: openai_chat, url: 'http://h', context_tokens: 1000, "


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("models: [", r"models\.yaml, line 1, column 10: "),
        ("- 1", r"models\.yaml: the content: "),
        ("models: []", r"models\.yaml: models: .*at least 1"),
        ("models:\n- {name: a, server: nope, url: 'http://h'}", r"models\[0\]\.server: .*choose one of bedrock"),
        ("models:\n- {name: a, server: openai_chat, url: h}", r"models\[0\]\.url: "),
        (f"{ENTRY}colour: red}}", r"models\[0\]\.colour: "),
        (f"{ENTRY}defaults: {{temperature: 9}}}}", r"models\[0\]\.defaults\.temperature: .*less than or equal to 2"),
        (f"{ENTRY}options: {{api_key: {KEY}}}}}", r"models\[0\]\.options\.api_key: .*api_key_file, or .*api_key_env"),
        (f"{ENTRY}options: {{api_key_env: NOT_SET}}}}", r"options\.api_key_env: .*NOT_SET is not set"),
        (f"{ENTRY}options: {{api_key_file: none}}}}", r"models\[0\]: options\.api_key_file: .*/none cannot be read"),
        (f"{ENTRY}options: {{colour: {KEY}}}}}", r"models\[0\]: options\.colour: is unknown\. Known: api_key"),
        (f"{ENTRY}}}\n- {{name: a, server: openai_chat, url: 'http://h'}}", r"models\[1\]\.name: there is .* already"),
        ("models:\n- {name: a, server: openai_chat, url: 'http://h'}", r"models\[0\]\.context_tokens: .*Set it"),
        ("models:\n- {name: a, server: openai, url: 'http://h'}", r"models\[0\]\.prompt_format: .*finished prompts"),
        ("models:\n- {name: a, server: llmapi, url: 'http://h', options: {x: 1}}", r"options\.x: .*has no options"),
    ],
)
def test_a_file_with_a_fault_stops_the_start(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    own = {"predictor_layout": "openai_chat", "context_tokens": 1000}
    with pytest.raises(SettingError, match=told) as refused:
        build(TransformerSettings.model_validate({"models_file": file, **own}))
    assert "\n" not in str(refused.value)
    assert KEY not in str(refused.value)


def test_the_examples_of_the_guide() -> None:
    example, template = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    found = ModelsFile.model_validate(yaml.safe_load(example)).models
    assert [model.name for model in found] == ["claude", "gpt"]
    assert PromptTemplate.model_validate(yaml.safe_load(template)).stop_texts == ("\nQuestion:",)
    servers = {"claude": BedrockSettings, "gpt": OpenAiSettings}
    for model in found:
        assert set(model.options or {}) <= set(servers[model.name].model_fields)


def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"nowhere\.yaml: cannot be read"):
        read_models(tmp_path / "nowhere.yaml")


def test_the_services_own_model_may_be_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the predictor of the settings, which lacks a tokenizer here, is not used."""
    monkeypatch.setenv("KEY_OF_THE_LAB", KEY)
    file = tmp_path / "models.json"
    file.write_text(
        '{"models": [{"name": "b", "server": "openai_chat", "url": "http://h", "context_tokens": 1000},\n'
        '{"name": "rag", "display_name": "Lab", "server": "openai_chat", "url": "http://h", "context_tokens": 1000,\n'
        '"options": {"api_key_env": "KEY_OF_THE_LAB"}}]}'
    )
    service = build(TransformerSettings(models_file=file))
    assert [(model.name, model.display_name) for model in service.models] == [("rag", "Lab"), ("b", "b")]
    assert KEY not in repr(read_models(file))

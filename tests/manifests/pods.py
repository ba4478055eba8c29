"""The pods that a set of documents makes, put together as KServe and Kubernetes do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.manifests.rendering import Document

PART_OF = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"


def named(documents: list[Document], kind: str) -> dict[str, Document]:
    """Name → document, of one kind."""
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


@dataclass
class Pod:
    """A pod as the manifests declare it."""

    owner: str
    """Kind, name and component of the object that creates the pod."""
    labels: Mapping[str, str]
    spec: Document
    """volumes, initContainers, containers, …"""
    env: dict[str, str] = field(default_factory=dict)
    """Variables of the first container, from ConfigMaps and plain values."""
    knative: bool = False
    serves: bool = False
    replicas: int = 1

    @property
    def main(self) -> Document:
        return dict(self.spec["containers"][0])

    @property
    def component(self) -> str:
        return self.labels[COMPONENT]

    @property
    def args(self) -> list[str]:
        """Arguments of the first container, with its variables substituted."""
        return [expand(argument, self.env) for argument in self.main.get("args", [])]

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.main.get("ports", [])}

    def option(self, name: str) -> str | None:
        """Value of `--name=value` in the arguments."""
        return next((a.split("=", 1)[1] for a in self.args if a.startswith(f"--{name}=")), None)

    def option_port(self, name: str) -> int:
        """A port from the arguments; the container must declare it."""
        port = int(self.option(name) or 0)
        assert port in self.ports.values(), self.owner
        return port

    @property
    def speaks_openai(self) -> bool:
        """Whether it is no server of Triton's or KServe's protocol."""
        return self.main.get("command") == ["trtllm-serve"]

    @property
    def ready_path(self) -> str:
        """Where it says whether it can answer."""
        return "/health" if self.speaks_openai else f"/v2/models/{self.model}/ready"

    @property
    def live_path(self) -> str:
        """Where it answers as long as it runs."""
        return "/version" if self.speaks_openai else "/v2/health/live"

    @property
    def model(self) -> str:
        """Name of the model that is served, as the program gets it."""
        if self.component == "vectorstore":
            return "vectorstore"  # vectorstore.server.NAME
        return self.option("model_name") or self.option("load-model") or "ensemble"


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` as the kubelet replaces it."""
    return re.sub(r"\$\((\w+)\)", lambda match: env.get(match[1], match[0]), text)


def environment(documents: list[Document], container: Document) -> dict[str, str]:
    """A container's variables: ConfigMaps first, then its own."""
    maps = named(documents, "ConfigMap")
    env: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            env.update(maps[source["configMapRef"]["name"]]["data"])
    env.update({item["name"]: item["value"] for item in container.get("env", []) if "value" in item})
    return env


def pods(documents: list[Document]) -> list[Pod]:
    """Every pod of the documents."""
    found = [*_services(documents), *_deployments(documents), *_jobs(documents)]
    for pod in found:
        pod.env = environment(documents, pod.main)
    return found


def _services(documents: list[Document]) -> Iterator[Pod]:
    runtimes = named(documents, "ServingRuntime")
    for name, service in named(documents, "InferenceService").items():
        for part in ("transformer", "predictor"):
            component = service["spec"].get(part)
            if component is None:
                continue
            spec = dict(component)
            model = component.get("model")
            if model is not None and model["runtime"] in runtimes:
                runtime = runtimes[model["runtime"]]["spec"]
                container: dict[str, Any] = {**runtime["containers"][0]}
                for key, value in model.items():
                    if key in ("envFrom", "env"):
                        container[key] = [*container.get(key, []), *value]
                    elif key not in ("modelFormat", "runtime", "protocolVersion", "storageUri"):
                        container[key] = value
                spec["containers"] = [container]
                spec["volumes"] = [*runtime.get("volumes", []), *component.get("volumes", [])]
            elif model is not None:
                continue  # the base alone: its engine comes with a component
            yield Pod(
                owner=f"InferenceService {name} {part}",
                labels={**service["metadata"].get("labels", {}), **component.get("labels", {})},
                spec=spec,
                knative=service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative",
                serves=True,
                replicas=component["minReplicas"],
            )


def _deployments(documents: list[Document]) -> Iterator[Pod]:
    for name, deployment in named(documents, "Deployment").items():
        template = deployment["spec"]["template"]
        yield Pod(
            owner=f"Deployment {name}",
            labels=template["metadata"]["labels"],
            spec=template["spec"],
            replicas=deployment["spec"]["replicas"],
        )


def _jobs(documents: list[Document]) -> Iterator[Pod]:
    jobs = [(f"Job {name}", job["spec"]) for name, job in named(documents, "Job").items()]
    jobs += [
        (f"CronJob {name}", job["spec"]["jobTemplate"]["spec"]) for name, job in named(documents, "CronJob").items()
    ]
    for owner, spec in jobs:
        template = spec["template"]
        yield Pod(owner=owner, labels=template["metadata"]["labels"], spec=template["spec"])


def containers(pod: Pod) -> list[Document]:
    """All of a pod, the first ones first."""
    return [*pod.spec.get("initContainers", []), *pod.spec["containers"]]


def matches(labels: Mapping[str, str], selector: Mapping[str, Any]) -> bool:
    """Whether a label selector (`matchLabels`, or the plain map of a Service) takes the labels."""
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "DoesNotExist", expression
        if expression["key"] in labels:
            return False
    wanted = selector.get("matchLabels", selector)
    return all(labels.get(name) == value for name, value in wanted.items())


_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "m": 1e-3}


def quantity(text: str | float) -> float:
    """A Kubernetes quantity as a number."""
    match = re.fullmatch(r"([\d.]+)(Ki|Mi|Gi|m|)", str(text))
    if match is None:
        raise ValueError(f"{text} is no quantity of the kinds used here")
    return float(match[1]) * _UNITS[match[2]]

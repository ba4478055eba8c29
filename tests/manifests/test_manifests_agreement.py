"""Ports, names, selectors, probes, volumes and hosts agree across documents."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from predictor.servers.triton import LAYOUTS
from tests.manifests.pods import COMPONENT, PART_OF, Pod, containers, matches, named, pods, quantity
from tests.manifests.rendering import COMBINATIONS, MANIFESTS, NAMES, ROOT, Document

SECRETS = {"kserve-rag-s3", "kserve-rag-hf", "kserve-rag-turns", "kserve-rag-principal"}
"""Made by the operator, as docs/deploy.md shows."""

VOLUME_CLAIMS_OF_OTHERS = {"kubeflow-shared-pvc", "kserve-rag-models"}
"""Claims that are there before: EzUA's, and the one that a graph without models-from-pvc does not need."""

GRACE = {"transformer": "TRANSFORMER_GRACE_PERIOD_S", "vectorstore": "VECTORSTORE_GRACE_PERIOD_S"}


def serving(documents: list[Document]) -> list[Pod]:
    return [pod for pod in pods(documents) if pod.serves]


def by_component(documents: list[Document]) -> dict[str, Pod]:
    return {pod.component: pod for pod in serving(documents)}


def test_the_graph_has_all_services(graph_documents: list[Document]) -> None:
    assert sorted(pod.component for pod in serving(graph_documents)) == [
        "embedder",
        "predictor",
        "transformer",
        "vectorstore",
    ]


def test_runtimes_support_their_models(graph_documents: list[Document]) -> None:
    runtimes = named(graph_documents, "ServingRuntime")
    for service in named(graph_documents, "InferenceService").values():
        model = service["spec"]["predictor"].get("model")
        if model is None:
            continue
        runtime = runtimes[model["runtime"]]["spec"]
        assert model["modelFormat"]["name"] in [known["name"] for known in runtime["supportedModelFormats"]]
        assert model["protocolVersion"] in runtime["protocolVersions"]
        assert model["storageUri"]


def unrestricted(context: Document) -> list[str]:
    """Fields of a container's securityContext that the Pod Security Standard `restricted` refuses.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    wanted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    wrong = [name for name, value in wanted.items() if context.get(name) != value]
    return wrong + ["runAsUser"] * (context.get("runAsUser") == 0)


def test_containers_are_restricted(documents: list[Document]) -> None:
    """The Pod Security Standard `restricted`, and a read-only root file system."""
    for pod in pods(documents):
        for container in containers(pod):
            where = f"{pod.owner} {container['name']}"
            assert unrestricted(container["securityContext"]) == [], where
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, where


ADDED = {
    "models-from-s3": "storage-initializer",
    "models-from-hf": "storage-initializer",
    "index-from-s3": "storage-initializer",
    "inference-graph": "router",
}
"""Component → container that KServe adds for it, with less than `restricted` wants. The cure is in docs/deploy.md."""

ROUTER = {
    "privileged": False,
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
"""Source: kserve 0.20, pkg/controller/v1alpha1/inferencegraph/raw_ig.go."""


def added_by_kserve(documents: list[Document]) -> dict[str, Document]:
    """Container → securityContext of what KServe adds to the pods.

    Source: kserve 0.20, pkg/webhook/admission/pod/storage_initializer_injector.go: a volume claim and an image volume
    (`oci+native://`) are mounted; `oci://` is a modelcar, all else a storage initializer.
    """
    found: dict[str, Document] = {"router": ROUTER} if named(documents, "InferenceGraph") else {}
    for service in named(documents, "InferenceService").values():
        for part in ("transformer", "predictor"):
            component = service["spec"].get(part, {})
            variables = [v for container in component.get("containers", []) for v in container.get("env", [])]
            uris = [variable["value"] for variable in variables if variable["name"] == "STORAGE_URI"]
            uris += [component["model"]["storageUri"]] if "storageUri" in component.get("model", {}) else []
            for uri in uris:
                if not uri.startswith(("pvc://", "oci+native://")):
                    found["modelcar" if uri.startswith("oci://") else "storage-initializer"] = {}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_pod_security_of_what_kserve_adds(rendered: Any, name: str) -> None:
    documents = rendered.documents[name]
    refused = {container for container, context in added_by_kserve(documents).items() if unrestricted(context)}
    assert refused == {ADDED[component] for component in COMBINATIONS.get(name, ()) if component in ADDED}
    for namespace in named(documents, "Namespace").values():
        if namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted":
            assert not refused


def test_the_cure_for_pod_security_is_documented() -> None:
    for component in ADDED:
        readme = (MANIFESTS / "components" / component / "README.md").read_text(encoding="utf-8")
        assert "docs/deploy.md#pod-security" in readme, component
    guide = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    (patch,) = re.findall(r"patch clusterstoragecontainer default .*?-p '(.*?)'", guide, re.DOTALL)
    assert unrestricted(json.loads(patch)["spec"]["container"]["securityContext"]) == []


def test_the_router_may_ask_what_it_joins(rendered: Any) -> None:
    documents = rendered.documents["inference-graph-guarded"]
    (graph,) = named(documents, "InferenceGraph").values()
    policies = [policy["spec"] for policy in named(documents, "NetworkPolicy").values()]
    # Source: InferenceGraphLabel in kserve 0.20, pkg/constants/constants.go.
    labels = {"serving.kserve.io/inferencegraph": graph["metadata"]["name"]}
    for step in graph["spec"]["nodes"]["root"]["steps"]:
        target, port = _target(documents, step["serviceUrl"])
        assert _admits(policies, target, labels, port), step["name"]


def test_containers_are_sized(documents: list[Document]) -> None:
    for pod in pods(documents):
        for container in containers(pod):
            where = f"{pod.owner} {container['name']}"
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert set(requests) == set(limits) >= {"cpu", "memory"}, where
            for name, value in requests.items():
                assert quantity(value) <= quantity(limits[name]), where
        memory = sum(
            quantity(volume["emptyDir"]["sizeLimit"])
            for volume in pod.spec.get("volumes", [])
            if volume.get("emptyDir", {}).get("medium") == "Memory"
        )
        assert memory < quantity(pod.main["resources"]["limits"]["memory"]), "what lies in memory counts"


def test_every_volume_is_bounded(documents: list[Document]) -> None:
    for pod in pods(documents):
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], (pod.owner, volume["name"])


def test_triton_has_shared_memory(graph_documents: list[Document]) -> None:
    for component in ("embedder", "predictor"):
        pod = by_component(graph_documents)[component]
        assert "/dev/shm" in [mount["mountPath"] for mount in pod.main["volumeMounts"]]  # noqa: S108 - the container's


def test_references_resolve(graph_documents: list[Document]) -> None:
    config_maps = named(graph_documents, "ConfigMap")
    accounts = named(graph_documents, "ServiceAccount")
    claims = set(named(graph_documents, "PersistentVolumeClaim")) | VOLUME_CLAIMS_OF_OTHERS
    secrets = set()
    for pod in pods(graph_documents):
        account = pod.spec.get("serviceAccountName")
        if account is not None:
            assert account in accounts, pod.owner
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        assert len(volumes) == len(pod.spec.get("volumes", [])), pod.owner
        for volume in volumes.values():
            if "configMap" in volume:
                data = config_maps[volume["configMap"]["name"]]["data"]
                assert {item["key"] for item in volume["configMap"].get("items", [])} <= set(data), pod.owner
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, pod.owner
        mounted = set()
        for container in containers(pod):
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(paths) == len(set(paths)), pod.owner
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes, (pod.owner, mount["name"])
                mounted.add(mount["name"])
            for source in container.get("envFrom", []):
                if "secretRef" in source:
                    secrets.add(source["secretRef"]["name"])
                else:
                    assert source["configMapRef"]["name"] in config_maps, pod.owner
            secrets |= {
                variable["valueFrom"]["secretKeyRef"]["name"]
                for variable in container.get("env", [])
                if "secretKeyRef" in variable.get("valueFrom", {})
            }
        assert mounted == set(volumes), f"{pod.owner} mounts every volume"
        for argument in pod.args:
            assert "$(" not in re.sub(r"\$\((RUN|POD_UID)\)", "", argument), f"{pod.owner}: {argument}"
    secrets |= {secret["name"] for account in accounts.values() for secret in account.get("secrets", [])}
    assert secrets <= SECRETS


CLOSED = "model-repository,shared-memory,trace,logging:key="


def test_triton_runs_code_for_nobody(graph_documents: list[Document]) -> None:
    for pod in serving(graph_documents):
        if pod.main.get("command") == ["tritonserver"]:
            assert pod.option("http-restricted-api") == f"{CLOSED}$(POD_UID)", pod.owner
            grpc = pod.option("grpc-restricted-protocol")
            assert pod.option("allow-grpc") == "false" or grpc == f"{CLOSED}$(POD_UID)", pod.owner
            (uid,) = (variable["valueFrom"] for variable in pod.main["env"] if variable["name"] == "POD_UID")
            assert uid == {"fieldRef": {"fieldPath": "metadata.uid"}}


def test_images_of_triton_run_code_for_nobody() -> None:
    files = [
        file
        for file in (Path(__file__).parents[2] / "dockerfiles").glob("*.Dockerfile")
        if '"tritonserver"' in file.read_text()
    ]
    assert len(files) == 4
    for file in files:
        (command,) = re.findall(r"^CMD (\[.*?\])$", file.read_text().replace("\\\n", ""), re.MULTILINE)
        arguments = json.loads(command)
        assert f"--http-restricted-api={CLOSED}closed\n" in arguments, file
        assert "--allow-grpc=false" in arguments or f"--grpc-restricted-protocol={CLOSED}closed\n" in arguments, file


def test_probes_ask_for_the_model(graph_documents: list[Document]) -> None:
    for pod in serving(graph_documents):
        main = pod.main
        assert main["readinessProbe"]["httpGet"]["path"] == pod.ready_path, pod.owner
        assert main["startupProbe"]["httpGet"]["path"] in (pod.ready_path, pod.live_path), pod.owner
        # A model that is not ready now is no reason to be killed.
        assert main["livenessProbe"]["httpGet"]["path"] == pod.live_path, pod.owner
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert main[probe]["httpGet"]["port"] == pod.ports["http1"], pod.owner


def test_pods_drain(graph_documents: list[Document]) -> None:
    for pod in serving(graph_documents):
        seconds = int(pod.env[GRACE[pod.component]] if pod.component in GRACE else pod.option("exit-timeout-secs") or 0)
        if pod.speaks_openai:
            seconds = 60  # uvicorn waits for every answer, and the kubelet for uvicorn
        assert seconds >= int(pod.env.get("TRANSFORMER_TIMEOUT_S", 60)), "the longest answer may end"
        if pod.knative:
            assert len(pod.ports) == 1, "a Knative container has one port"
            assert "lifecycle" not in pod.main
            assert "terminationGracePeriodSeconds" not in pod.spec
            continue
        stop = pod.main["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert stop >= 5, "endpoints must know before the port closes"
        assert pod.spec["terminationGracePeriodSeconds"] >= stop + seconds + 10, pod.owner


def test_a_rollout_loses_no_replica(graph_documents: list[Document]) -> None:
    for pod in serving(graph_documents):
        if pod.knative:
            continue
        strategy = pod.spec.get("deploymentStrategy", {}).get("rollingUpdate")
        if "nvidia.com/gpu" in pod.main["resources"]["limits"]:
            assert strategy == {"maxUnavailable": 1, "maxSurge": 0}, "there is no second GPU"
        elif strategy is not None:
            assert strategy == {"maxUnavailable": 0, "maxSurge": 1}


def services_of_kserve(documents: list[Document]) -> list[Document]:
    """Services that KServe makes of the InferenceServices, with the labels of the pods and its own."""
    return [
        {"metadata": {"labels": {**pod.labels, "serving.kserve.io/inferenceservice": pod.owner.split()[1]}}}
        for pod in serving(documents)
    ]


def test_selectors_find_their_pods(graph_documents: list[Document]) -> None:
    everything = pods(graph_documents)
    for kind in ("Service", "PodDisruptionBudget"):
        for name, document in named(graph_documents, kind).items():
            if document["spec"].get("type") == "ExternalName":
                continue  # a name of what is elsewhere
            selector = document["spec"]["selector"]
            found = [pod for pod in everything if matches(pod.labels, selector)]
            assert len(found) == 1, f"{kind} {name}"
            if kind == "Service":
                for port in document["spec"]["ports"]:
                    assert port["targetPort"] in found[0].ports.values(), f"Service {name} {port['name']}"
    for monitor in named(graph_documents, "ServiceMonitor").values():
        selector = monitor["spec"]["selector"]
        services = [
            service
            for service in [*named(graph_documents, "Service").values(), *services_of_kserve(graph_documents)]
            if matches(service["metadata"]["labels"], selector)
        ]
        if monitor["metadata"]["name"] == "kserve-rag-ingest" and not services:
            continue  # the graph has no service that takes documents in
        assert len(services) == 1
        ports = {port["name"] for port in services[0]["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
    for kind in ("AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication", "NetworkPolicy"):
        for name, document in named(graph_documents, kind).items():
            selector = document["spec"].get("selector") or document["spec"]["podSelector"]
            assert any(matches(pod.labels, selector) for pod in everything), f"{kind} {name}"


def _target(documents: list[Document], url: str) -> tuple[Pod, int]:
    """The pod that a URL leads to, and its port there."""
    parts = urlsplit(url)
    port = parts.port or 80
    host = (parts.hostname or "").split(".")[0]
    service = named(documents, "Service").get(host)
    if service is not None:
        target = next(p["targetPort"] for p in service["spec"]["ports"] if p["port"] == port)
        return next(pod for pod in serving(documents) if matches(pod.labels, service["spec"]["selector"])), target
    match = re.fullmatch(r"(.+)-(predictor|transformer)", host)
    assert match is not None, f"{url} leads nowhere"
    pod = next(pod for pod in serving(documents) if pod.owner == f"InferenceService {match[1]} {match[2]}")
    assert pod.knative, f"{url} is KServe's own name, which differs between its versions"
    assert port == 80
    return pod, pod.ports["http1"]


def _arrows(documents: list[Document]) -> list[tuple[Pod, str, str]]:
    """Pod, URL it is given, and the component that must be behind it."""
    found = []
    for pod in pods(documents):
        env = pod.env
        for variable, component in (
            ("TRANSFORMER_VECTORSTORE_URL", "vectorstore"),
            ("TRANSFORMER_EMBEDDER_URL", "embedder"),
            ("VECTORSTORE_EMBEDDER_URL", "embedder"),
            ("INGEST_EMBEDDER_URL", "embedder"),
        ):
            if variable in env:
                found.append((pod, env[variable], component))
        if pod.component == "transformer":
            found.append((pod, f"http://{pod.option('predictor_host')}", "predictor"))
    return found


def test_hosts_lead_to_the_right_pods(graph_documents: list[Document]) -> None:
    arrows = _arrows(graph_documents)
    assert len(arrows) >= 4
    for pod, url, component in arrows:
        target, port = _target(graph_documents, url)
        assert target.component == component, f"{pod.owner}: {url}"
        assert port == target.ports["http1"]


def test_the_route_leads_to_the_transformer(rendered: Any) -> None:
    documents = rendered.documents["httproute"]
    (route,) = named(documents, "HTTPRoute").values()
    (rule,) = route["spec"]["rules"]
    (backend,) = rule["backendRefs"]
    target, _ = _target(documents, f"http://{backend['name']}:{backend['port']}")
    assert target.component == "transformer"
    assert int(rule["timeouts"]["request"].removesuffix("s")) > int(target.env["TRANSFORMER_TIMEOUT_S"])


@pytest.mark.parametrize("name", ["network-policies", "production", "prometheus-serve", "gpu", "openshift"])
def test_network_policies_admit_the_calls_of_the_graph(rendered: Any, name: str) -> None:
    graph_documents = rendered.documents[name]
    policies = [p["spec"] for p in named(graph_documents, "NetworkPolicy").values()]
    for pod in pods(graph_documents):
        assert any(matches(pod.labels, policy["podSelector"]) for policy in policies), pod.owner
    for pod, url, _ in _arrows(graph_documents):
        target, port = _target(graph_documents, url)
        assert _admits(policies, target, pod.labels, port), f"{pod.owner} → {target.owner}"
    targets = by_component(graph_documents)
    assert _admits(policies, targets["transformer"], {}, 8080), "clients come from anywhere"
    for component in ("vectorstore", "embedder", "predictor"):
        assert not _admits(policies, targets[component], {"app": "stranger"}, targets[component].ports["http1"])


def _admits(policies: list[Any], target: Pod, source: Any, port: int) -> bool:
    for policy in policies:
        if not matches(target.labels, policy["podSelector"]):
            continue
        for rule in policy.get("ingress", []):
            peers = rule.get("from")
            known = peers is None or any(matches(source, p["podSelector"]) for p in peers if "podSelector" in p)
            if known and port in [allowed["port"] for allowed in rule["ports"]]:
                return True
    return False


@pytest.mark.parametrize("name", ["istio-auth", "production", "prometheus-serve", "earlier-graph-https", "ezua"])
def test_istio_admits_the_calls_of_the_graph(rendered: Any, name: str) -> None:
    graph_documents = rendered.documents[name]
    policies = named(graph_documents, "AuthorizationPolicy")
    for pod in pods(graph_documents):
        assert pod.labels.get("sidecar.istio.io/inject") == "true" or pod.component == "models", pod.owner
    for pod, url, component in _arrows(graph_documents):
        target, _ = _target(graph_documents, url)
        admitted = [
            principal
            for policy in policies.values()
            if matches(target.labels, policy["spec"]["selector"])
            and policy["spec"]["selector"]["matchLabels"][COMPONENT]
            for rule in policy["spec"]["rules"]
            for source in rule.get("from", [])
            for principal in source["source"].get("principals", [])
        ]
        assert f"*/sa/{pod.spec['serviceAccountName']}" in admitted, f"{pod.owner} → {component}"


def test_the_ingest_service_has_one_replica_behind_the_page(rendered: Any) -> None:
    documents = rendered.documents["ingest-service-guarded"]
    deployment = named(documents, "Deployment")["kserve-rag-ingest"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate"), "its volume is one pod's"
    (pod,) = (pod for pod in pods(documents) if pod.owner == "Deployment kserve-rag-ingest")
    assert matches(pod.labels, deployment["selector"])
    assert {PART_OF: "kserve-rag", COMPONENT: "ingest"}.items() <= pod.labels.items(), (
        "the chart's policy looks for them"
    )
    stop = pod.main["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod.spec["terminationGracePeriodSeconds"] >= stop + int(pod.env["INGEST_GRACE_PERIOD_S"]) + 10
    (job,) = (other for other in pods(documents) if other.owner == "CronJob kserve-rag-ingest")
    for entry in named(documents, "Service").values():
        assert not matches(job.labels, entry["spec"]["selector"]), "a run that is ready would be asked"
    shared = {mount["mountPath"] for mount in job.main["volumeMounts"]} - {"/tmp"}  # noqa: S108 - the container's
    assert shared <= {mount["mountPath"] for mount in pod.main["volumeMounts"]}, "both read and write the same"
    policy = named(documents, "NetworkPolicy")["kserve-rag-ingest"]["spec"]
    peer = policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert peer == {"app.kubernetes.io/name": "kserve-rag-frontend", COMPONENT: "frontend"}
    rules = named(documents, "AuthorizationPolicy")["kserve-rag-ingest"]["spec"]["rules"]
    assert rules[0] == {"from": [{"source": {"requestPrincipals": ["*"]}}]}


@pytest.mark.parametrize("name", ["ingest-service", "ingest-service-s3", "ingest-service-hf", "ingest-service-oci"])
def test_the_ingest_service_measures_chunks_with_the_jobs_tokenizer(rendered: Any, name: str) -> None:
    documents = rendered.documents[name]
    found = {pod.owner.split()[0]: pod for pod in pods(documents) if pod.component == "ingest"}
    assert found.keys() == {"CronJob", "Deployment"}
    of = {
        kind: [
            pod.env["INGEST_TOKENIZER"],
            [entry for entry in pod.main["volumeMounts"] if entry["mountPath"] == "/mnt/models"],
            [volume for volume in pod.spec["volumes"] if volume["name"] == "embedder"],
            pod.spec["initContainers"],
        ]
        for kind, pod in found.items()
    }
    assert of["CronJob"] == of["Deployment"]


def test_model_names_agree(graph_documents: list[Document]) -> None:
    of = by_component(graph_documents)
    assert of["vectorstore"].env["VECTORSTORE_EMBEDDER_MODEL"] == of["embedder"].model
    assert of["transformer"].env["TRANSFORMER_EMBEDDER_MODEL"] == of["embedder"].model
    for pod in pods(graph_documents):
        if "INGEST_EMBEDDER_MODEL" in pod.env:
            assert pod.env["INGEST_EMBEDDER_MODEL"] == of["embedder"].model
    server = of["transformer"].env["TRANSFORMER_PREDICTOR_LAYOUT"]
    # An OpenAI server lists its model.
    assert server == "openai" if of["predictor"].speaks_openai else LAYOUTS[server].model == of["predictor"].model


def test_the_index_volume_is_mounted_at_the_index_root(graph_documents: list[Document]) -> None:
    vectorstore = by_component(graph_documents)["vectorstore"]
    root = vectorstore.env["VECTORSTORE_INDEX_ROOT"]
    mounts = {mount["mountPath"]: mount for mount in vectorstore.main["volumeMounts"]}
    if root in mounts:
        assert mounts[root]["readOnly"] is True
    else:
        assert root == "/mnt/models", "where KServe's storage initializer puts it"
        assert "STORAGE_URI" in vectorstore.env
    # Chroma writes when it opens an index; both volumes are read-only.
    assert vectorstore.env["VECTORSTORE_STORE"] == "exact"


def test_context_windows_agree(graph_documents: list[Document]) -> None:
    """The engine and the transformer agree on the context window."""
    window = by_component(graph_documents)["transformer"].env.get("TRANSFORMER_CONTEXT_TOKENS")
    gpus = by_component(graph_documents)["predictor"].main["resources"]["limits"].get("nvidia.com/gpu")
    for name, document in named(graph_documents, "ConfigMap").items():
        if name.startswith("kserve-rag-llm-"):
            model = yaml.safe_load(document["data"]["model.yaml"])
            assert str(model["max_seq_len"]) == window
            assert str(model["tensor_parallel_size"] * model["pipeline_parallel_size"]) == gpus
            assert model["triton_config"] == {
                "max_batch_size": 0,
                "decoupled": True,
                "cancellation_check_period_ms": 100,
            }
        if name.startswith("kserve-rag-vllm-"):
            model = json.loads(document["data"]["model.json"])
            assert str(model["max_model_len"]) == window
            assert str(model["tensor_parallel_size"]) == gpus
        if name.startswith("kserve-rag-trtllm-serve-"):
            model = yaml.safe_load(document["data"]["config.yaml"])
            assert str(model["max_seq_len"]) == window
            assert str(model["tensor_parallel_size"] * model["pipeline_parallel_size"]) == gpus
    builds = [pod for pod in pods(graph_documents) if pod.owner == "Job kserve-rag-build-engines"]
    for pod in builds:
        assert pod.option("max-tokens") == window
        assert pod.option("tensor-parallel") == gpus


def test_transformers_have_one_worker(graph_documents: list[Document]) -> None:
    """KServe would start as many as containerConcurrency says, and a transformer works with one alone."""
    transformer = by_component(graph_documents)["transformer"]
    assert transformer.option("workers") == "1"
    assert transformer.option("predictor_host")
    assert "containerConcurrency" not in transformer.spec


def test_jobs_end(documents: list[Document]) -> None:
    jobs = [job["spec"] for job in named(documents, "Job").values()]
    jobs += [job["spec"]["jobTemplate"]["spec"] for job in named(documents, "CronJob").values()]
    for job in jobs:
        assert job["backoffLimit"] <= 4
        assert job["activeDeadlineSeconds"] > 0
        assert job["template"]["spec"]["restartPolicy"] == "Never", "a pod failure policy asks for it"
        names = {c["name"] for c in containers(Pod("", {}, job["template"]["spec"]))}
        for rule in job["podFailurePolicy"]["rules"]:
            if "onExitCodes" in rule:
                assert rule["onExitCodes"]["containerName"] in names
    for job in named(documents, "CronJob").values():
        assert job["spec"]["concurrencyPolicy"] == "Forbid", "two runs would both publish"


def test_only_the_rollout_job_has_api_access(documents: list[Document]) -> None:
    """Only the Job that rolls out the vectorstore talks to the API server, and may do nothing else."""
    talking = [pod for pod in pods(documents) if pod.spec.get("automountServiceAccountToken")]
    bindings = named(documents, "RoleBinding")
    if not talking:
        return
    assert [pod.owner for pod in talking] == ["CronJob kserve-rag-ingest"]
    (binding,) = bindings.values()
    assert [subject["name"] for subject in binding["subjects"]] == [talking[0].spec["serviceAccountName"]]
    (role,) = named(documents, "Role").values()
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (rule,) = role["rules"]
    (service,) = rule["resourceNames"]
    assert service in named(documents, "InferenceService")
    assert rule["verbs"] == ["get", "patch"]


EARLIER_HOSTS = {
    "ensemble-transformer": "/v2/models/ensemble/ready",
    "ensemble-transformer-default": "/v2/models/ensemble/ready",
    "vectorstore-predictor": "/v2/models/vectorstore/ready",
    "vectorstore-predictor-default": "/v2/models/vectorstore/ready",
    "bge-predictor": "/v2/models/bge_m3/ready",
    "bge-predictor-default": "/v2/models/bge_m3/ready",
    "ensemble-predictor": "/v2/models/ensemble/ready",
    "ensemble-predictor-default": "/v2/models/ensemble/ready",
}
"""Host of the earlier graph → ready path of its pod."""


@pytest.mark.parametrize("name", ["earlier-graph", "earlier-graph-cpu", "earlier-graph-serve"])
def test_host_names_of_the_earlier_graph_resolve(rendered: Any, name: str) -> None:
    documents = rendered.documents[name]
    for host, path in EARLIER_HOSTS.items():
        pod, _ = _target(documents, f"http://{host}.any.svc.cluster.local")
        assert pod.main["readinessProbe"]["httpGet"]["path"] == path
    assert by_component(documents)["vectorstore"].env["VECTORSTORE_RESPONSE_SHAPE"] == "strings"
    assert by_component(documents)["transformer"].env["TRANSFORMER_RESPONSE_SHAPE"] == "ensemble"
    assert "--load-model=bge" in by_component(documents)["embedder"].args


@pytest.mark.parametrize("name", ["earlier-graph", "earlier-graph-https"])
def test_names_of_the_earlier_graph_do_not_collide_with_kserve(rendered: Any, name: str) -> None:
    """KServe creates Services with these names and would revert changes to them."""
    documents = rendered.documents[name]
    own = {
        f"{service}-{part}{suffix}"
        for service in named(documents, "InferenceService")
        for part in ("predictor", "transformer")
        for suffix in ("", "-default")
    }
    assert own & set(named(documents, "Service")) == set()


def test_the_earlier_graph_answers_to_https(rendered: Any) -> None:
    documents = rendered.documents["earlier-graph-https"]
    services = named(documents, "Service")
    routes = {
        host: route["spec"] for route in named(documents, "VirtualService").values() for host in route["spec"]["hosts"]
    }
    assert routes.keys() == EARLIER_HOSTS.keys()
    for host, path in EARLIER_HOSTS.items():
        entry = services[host]["spec"]
        assert entry["type"] == "ExternalName"
        assert "selector" not in entry
        assert [port["port"] for port in entry["ports"]] == [80, 443]
        (gateway,) = routes[host]["gateways"]
        # The Gateway's own Service.
        assert entry["externalName"].split(".")[0] == gateway.split("/")[1]
        ((destination,),) = [[step["destination"] for step in rule["route"]] for rule in routes[host]["http"]]
        pod, _ = _target(documents, f"http://{destination['host']}:{destination['port']['number']}")
        assert pod.main["readinessProbe"]["httpGet"]["path"] == path


def test_notebooks_of_the_earlier_graph_are_admitted(rendered: Any) -> None:
    """To the services that they ask themselves, with a token."""
    documents = rendered.documents["earlier-graph-https"]
    of = by_component(documents)
    authentication = named(documents, "RequestAuthentication")["kserve-rag"]
    policies = [policy["spec"] for policy in named(documents, "NetworkPolicy").values()]
    for component in ("transformer", "vectorstore", "embedder"):
        assert matches(of[component].labels, authentication["spec"]["selector"])
        rules = named(documents, "AuthorizationPolicy")[f"kserve-rag-{component}"]["spec"]["rules"]
        assert {"from": [{"source": {"requestPrincipals": ["*"]}}]} in rules
        assert _admits(policies, of[component], {}, of[component].ports["http1"])
    rules = named(documents, "AuthorizationPolicy")["kserve-rag-predictor"]["spec"]["rules"]
    assert "requestPrincipals" not in str(rules)


def test_the_job_rolls_out_the_vectorstore_by_its_name(rendered: Any) -> None:
    for name, service in {"s3": "vectorstore", "earlier-graph-https": "passages"}.items():
        documents = rendered.documents[name]
        assert service in named(documents, "InferenceService")
        (job,) = (pod for pod in pods(documents) if pod.owner == "CronJob kserve-rag-ingest")
        assert job.args[:3] == ["patch", "inferenceservices.serving.kserve.io", service]
        (role,) = named(documents, "Role").values()
        assert role["rules"][0]["resourceNames"] == [service]


@pytest.mark.parametrize("name", ["prometheus", "prometheus-serve", "production", "openshift"])
def test_monitors_of_the_graph_reach_every_service(rendered: Any, name: str) -> None:
    documents = rendered.documents[name]
    of = by_component(documents)
    scraped = {}
    for monitor in named(documents, "ServiceMonitor").values():
        component = monitor["spec"]["selector"]["matchLabels"][COMPONENT]
        if component == "ingest":
            continue
        (endpoint,) = monitor["spec"]["endpoints"]
        service = next(
            service
            for service in named(documents, "Service").values()
            if matches(service["metadata"]["labels"], monitor["spec"]["selector"])
        )
        path = endpoint["path"]
        for rule in endpoint.get("relabelings", []):
            # As Prometheus names a Service's annotations.
            annotations = {
                f"__meta_kubernetes_service_annotation_{re.sub(r'[^a-zA-Z0-9_]', '_', key)}": value
                for key, value in service["metadata"].get("annotations", {}).items()
            }
            match = re.fullmatch(rule["regex"], annotations.get(rule["sourceLabels"][0], ""))
            if match is not None:
                assert rule["targetLabel"] == "__metrics_path__"
                path = match[1]
        port = next(p["targetPort"] for p in service["spec"]["ports"] if p["name"] == endpoint["port"])
        scraped[component] = (port, path)
    assert scraped == {
        "transformer": (of["transformer"].ports["http1"], "/metrics"),
        "vectorstore": (of["vectorstore"].ports["http1"], "/metrics"),
        "embedder": (of["embedder"].option_port("metrics-port"), "/metrics"),
        "predictor": (
            (of["predictor"].option_port("port"), "/prometheus/metrics")
            if of["predictor"].speaks_openai
            else (of["predictor"].option_port("metrics-port"), "/metrics")
        ),
    }
    policies = [policy["spec"] for policy in named(documents, "NetworkPolicy").values()]
    for component, (port, _) in scraped.items():
        assert not policies or _open_to_prometheus(policies, of[component], port), component


def _open_to_prometheus(policies: list[Any], target: Pod, port: int) -> bool:
    return any(
        port in [allowed["port"] for allowed in rule["ports"]]
        for policy in policies
        if matches(target.labels, policy["podSelector"])
        for rule in policy.get("ingress", [])
        if rule.get("from") is None or any("namespaceSelector" in peer for peer in rule["from"])
    )


def test_trtllm_serve_exports_its_metrics(rendered: Any) -> None:
    """Source: TensorRT-LLM 1.2 `tensorrt_llm/serve/openai_server.py`, register_routes."""
    maps = named(rendered.documents["prometheus-serve"], "ConfigMap")
    (content,) = (m["data"]["config.yaml"] for name, m in maps.items() if name.startswith("kserve-rag-trtllm-serve-"))
    assert yaml.safe_load(content)["return_perf_metrics"] is True


def test_the_gpu_embedder_is_scheduled_on_a_gpu(rendered: Any) -> None:
    embedder = by_component(rendered.documents["embedder-gpu"])["embedder"]
    assert embedder.main["image"] == "kserve-rag-embedder-gpu:0.1.0"
    assert embedder.env["EMBEDDER_BACKEND"] == "flagembedding"
    assert embedder.spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert [one["key"] for one in embedder.spec["tolerations"]] == ["nvidia.com/gpu"]
    assert embedder.main["resources"]["limits"]["nvidia.com/gpu"] == "1"
    shm = next(volume["emptyDir"] for volume in embedder.spec["volumes"] if volume["name"] == "shm")
    # The largest batch that config.pbtxt allows, with all its outputs.
    batch = 32 * 8192 * 1024 * 4
    assert quantity(shm["sizeLimit"]) >= 2 * batch

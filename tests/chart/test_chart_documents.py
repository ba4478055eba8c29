"""The rendered chart: valid against the schemas, and consistent between documents."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from chassis.settings import read_settings
from frontend.settings import FrontendSettings
from tests.chart.rendering import NAMESPACE, RELEASE, Document, only, render, values_of
from tests.chart.schemas import problems
from tests.manifests.pods import matches, quantity
from tests.manifests.rendering import MANIFESTS

ALWAYS = {"Deployment", "Service", "ServiceAccount"}
KINDS = {
    "defaults": ALWAYS | {"VirtualService", "AuthorizationPolicy"},
    "autoscaling": ALWAYS | {"VirtualService", "AuthorizationPolicy", "HorizontalPodAutoscaler"},
    "custom": ALWAYS | {"VirtualService"},
    "earlier-chart": ALWAYS | {"VirtualService", "AuthorizationPolicy"},
    "earlier-release": ALWAYS | {"VirtualService", "AuthorizationPolicy"},
    "ezua": ALWAYS | {"VirtualService", "AuthorizationPolicy", "NetworkPolicy"},
    "inside": {"Deployment", "Service", "NetworkPolicy"},
    "without-istio": ALWAYS | {"Ingress", "NetworkPolicy"},
}


def pod(documents: list[Document]) -> Document:
    return dict(only(documents, "Deployment")["spec"]["template"])


def container(documents: list[Document]) -> Document:
    (found,) = pod(documents)["spec"]["containers"]
    return dict(found)


def env(documents: list[Document]) -> dict[str, str]:
    """Name → value of the page's variables that have one."""
    return {item["name"]: item["value"] for item in container(documents)["env"] if "value" in item}


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def in_graph(path: str) -> list[Document]:
    """Documents of the graph as its manifests have them."""
    return list(yaml.safe_load_all((MANIFESTS / path).read_text(encoding="utf-8")))


def test_kinds(name: str, documents: list[Document]) -> None:
    assert sorted(document["kind"] for document in documents) == sorted(KINDS[name])


def test_documents_fit_their_schemas(documents: list[Document]) -> None:
    found = {f"{document['kind']}: {problem}" for document in documents for problem in problems(document)}
    assert found == set()


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ["spec", "template", "spec", "containers", 0, "readinessProb"], {}),
        ("Service", ["spec", "ports", 0, "port"], "many"),
        ("HorizontalPodAutoscaler", ["spec", "minReplica"], 1),
        ("VirtualService", ["spec", "host"], "x"),
        ("VirtualService", ["spec", "hosts", 0], "x.${DOMAIN_NAME}"),
        ("VirtualService", ["spec", "http", 0, "route", 0, "destination", "port", "number"], "80"),
        ("AuthorizationPolicy", ["spec", "rules", 0, "to", 0, "operation", "host"], ["x"]),
        ("AuthorizationPolicy", ["spec", "action"], "CUSTOMS"),
        ("AuthorizationPolicy", ["metadata", "name"], "-x"),
    ],
)
def test_wrong_documents_are_found(program: str, kind: str, path: list[Any], value: Any) -> None:
    good = only(render(program, *values_of("autoscaling")), kind)
    assert problems(good) == []
    bad = copy.deepcopy(good)
    place = bad
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert problems(bad)


def test_everything_is_in_the_release(documents: list[Document]) -> None:
    for document in documents:
        metadata = document["metadata"]
        # The gateway is protected where it is, and there under a name that no other namespace's page has.
        elsewhere = document["kind"] == "AuthorizationPolicy"
        assert metadata["namespace"] == ("istio-system" if elsewhere else NAMESPACE)
        assert metadata["name"].endswith(f"-{NAMESPACE}") is elsewhere
        assert metadata["labels"]["app.kubernetes.io/instance"] == RELEASE
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        assert metadata["labels"]["helm.sh/chart"].startswith("kserve-rag-frontend-")


def test_selectors_select_the_pod(documents: list[Document]) -> None:
    labels = pod(documents)["metadata"]["labels"]
    deployment, service = only(documents, "Deployment"), only(documents, "Service")
    assert matches(labels, deployment["spec"]["selector"])
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    for policy in of_kind(documents, "NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"] == service["spec"]["selector"]
    for scaler in of_kind(documents, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert target == {
            "apiVersion": deployment["apiVersion"], "kind": "Deployment", "name": deployment["metadata"]["name"],
        }  # fmt: skip


def test_the_page_does_not_match_selectors_of_the_graph(documents: list[Document]) -> None:
    """Its Services would send questions to the page, and its policies close it."""
    labels = pod(documents)["metadata"]["labels"]
    for document in [*in_graph("base/services.yaml"), *in_graph("components/earlier-graph/services.yaml")]:
        assert not matches(labels, document["spec"]["selector"]), document["metadata"]["name"]
    for document in in_graph("components/network-policies/policies.yaml"):
        assert not matches(labels, document["spec"]["podSelector"]), document["metadata"]["name"]
    for document in in_graph("components/istio-auth/auth.yaml"):
        assert not matches(labels, document["spec"]["selector"]), document["metadata"]["name"]


def test_ports_agree(documents: list[Document]) -> None:
    (port,) = container(documents)["ports"]
    (served,) = only(documents, "Service")["spec"]["ports"]
    assert served["targetPort"] == port["name"]
    assert env(documents)["FRONTEND_HTTP_PORT"] == str(port["containerPort"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(documents)[probe]["httpGet"]["port"] == port["name"]
    for policy in of_kind(documents, "NetworkPolicy"):
        assert policy["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port["containerPort"]}]
    service = only(documents, "Service")["metadata"]
    for virtual in of_kind(documents, "VirtualService"):
        (route,) = virtual["spec"]["http"][0]["route"]
        assert route["destination"] == {
            "host": f"{service['name']}.{service['namespace']}.svc.cluster.local",
            "port": {"number": served["port"]},
        }
    for ingress in of_kind(documents, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                assert path["backend"]["service"] == {"name": service["name"], "port": {"name": served["name"]}}


def test_the_pages_server_knows_its_variables(documents: list[Document]) -> None:
    own = {name: value for name, value in env(documents).items() if name.startswith("FRONTEND_")}
    named = {name.removeprefix("FRONTEND_").lower(): value for name, value in own.items()}
    assert named.keys() <= FrontendSettings.model_fields.keys()
    settings = read_settings(FrontendSettings, **named)
    assert settings.http_port == container(documents)["ports"][0]["containerPort"]
    assert settings.known_hosts() is None, "probes and the mesh name it as they like"


def test_probes_use_routes_of_the_server(documents: list[Document]) -> None:
    paths = {
        probe: container(documents)[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths == {"startupProbe": "/live", "readinessProbe": "/ready", "livenessProbe": "/live"}


def test_the_service_account_exists(documents: list[Document]) -> None:
    used = pod(documents)["spec"]["serviceAccountName"]
    assert [account["metadata"]["name"] for account in of_kind(documents, "ServiceAccount")] == (
        [] if used == "default" else [used]
    )
    assert pod(documents)["spec"]["automountServiceAccountToken"] is False


def test_the_container_is_restricted(documents: list[Document]) -> None:
    """The Pod Security Standard `restricted`, and a read-only root file system."""
    context = container(documents)["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for where in (context, pod(documents)["spec"].get("securityContext", {})):
        assert where.get("runAsUser", 1) > 0


def test_the_container_is_sized(documents: list[Document]) -> None:
    resources = container(documents)["resources"]
    assert set(resources["requests"]) >= {"cpu", "memory"}
    for name, limit in resources["limits"].items():
        assert quantity(resources["requests"][name]) <= quantity(limit), name
    (volume,) = pod(documents)["spec"]["volumes"]
    (mount,) = container(documents)["volumeMounts"]
    assert volume["name"] == mount["name"]
    assert "sizeLimit" in volume["emptyDir"]


def test_the_page_drains_within_the_grace_period(documents: list[Document]) -> None:
    seconds = int(env(documents)["FRONTEND_GRACE_PERIOD_S"])
    waits = container(documents)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert 0 < seconds + waits < pod(documents)["spec"]["terminationGracePeriodSeconds"]


def test_sign_in_covers_the_host_whatever_its_port(documents: list[Document]) -> None:
    """The gateway routes `rag.example.com:443` as it does `rag.example.com`."""
    for policy in of_kind(documents, "AuthorizationPolicy"):
        (host,) = only(documents, "VirtualService")["spec"]["hosts"]
        (rule,) = policy["spec"]["rules"]
        assert rule["to"][0]["operation"]["hosts"] == [host, f"{host}:*"]


@pytest.mark.parametrize("name", ["ezua"], scope="session")
def test_only_the_gateway_opens_the_page(documents: list[Document]) -> None:
    policy = only(documents, "AuthorizationPolicy")
    (peer,) = only(documents, "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": policy["metadata"]["namespace"]}
    assert peer["podSelector"] == policy["spec"]["selector"]


@pytest.mark.parametrize(("name", "known"), [("inside", None), ("without-istio", "ingress-nginx")], scope="session")
def test_the_network_policy_without_istio(documents: list[Document], known: str | None) -> None:
    (rule,) = only(documents, "NetworkPolicy")["spec"]["ingress"]
    namespaces = [peer["namespaceSelector"]["matchLabels"] for peer in rule.get("from", [])]
    assert namespaces == ([{"kubernetes.io/metadata.name": known}] if known else [])


@pytest.mark.parametrize("name", ["ezua"], scope="session")
def test_the_page_reaches_the_graph(documents: list[Document]) -> None:
    """By the port and the labels that the graph's pods have."""
    services = {document["metadata"]["name"]: document["spec"] for document in in_graph("base/services.yaml")}
    _, transformer, ingest, istiod = only(documents, "NetworkPolicy")["spec"]["egress"]
    (peer,) = transformer["to"]
    assert peer["podSelector"]["matchLabels"] == services["kserve-rag-transformer"]["selector"]
    assert transformer["ports"][0]["port"] == services["kserve-rag-transformer"]["ports"][0]["targetPort"]
    (peer,) = ingest["to"]
    job = next(d for d in in_graph("components/ingest/ingest.yaml") if d["kind"] == "CronJob")
    assert matches(job["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"], peer["podSelector"])
    assert istiod["ports"][0]["port"] == 15012


@pytest.mark.parametrize("name", ["defaults"], scope="session")
def test_defaults_name_the_graph(documents: list[Document]) -> None:
    services = {document["metadata"]["name"]: document["spec"] for document in in_graph("base/services.yaml")}
    variables = env(documents)
    name = variables["FRONTEND_TRANSFORMER_URL"].removeprefix("http://")
    assert services[name]["ports"][0]["port"] == 80
    assert "FRONTEND_INGEST_URL" not in variables


@pytest.mark.parametrize("name", ["autoscaling"], scope="session")
def test_the_autoscaler_alone_counts_the_pods(documents: list[Document]) -> None:
    assert "replicas" not in only(documents, "Deployment")["spec"]
    spec = only(documents, "HorizontalPodAutoscaler")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 6)
    targets = {
        metric["resource"]["name"]: metric["resource"]["target"]["averageUtilization"] for metric in spec["metrics"]
    }
    assert targets == {"cpu": 70, "memory": 80}
    assert set(targets) <= set(container(documents)["resources"]["requests"])


@pytest.mark.parametrize("name", ["custom"], scope="session")
def test_set_values_are_rendered(documents: list[Document]) -> None:
    found, spec, labels = container(documents), pod(documents)["spec"], pod(documents)["metadata"]["labels"]
    assert only(documents, "Deployment")["metadata"]["name"] == "the-page"
    assert only(documents, "Deployment")["spec"]["replicas"] == 3
    assert found["image"] == "registry.example.com:5000/team/page:1.10"
    assert found["resources"]["requests"] == {"cpu": "2", "memory": "128Mi", "ephemeral-storage": "2Gi"}
    # Helm merges maps: keys that are not named stay.
    assert found["resources"]["limits"] == {"cpu": "4", "memory": "256Mi"}
    assert found["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}
    assert found["readinessProbe"]["periodSeconds"] == 20
    assert env(documents)["FRONTEND_TITLE"] == "Ask the handbook"
    assert env(documents)["FRONTEND_FRAME_ANCESTORS"] == "'self' https://home.example.com"
    assert [item["name"] for item in found["env"]][-2:] == ["OTEL_EXPORTER_OTLP_ENDPOINT", "HTTPS_PROXY"]
    assert found["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 1000660000
    assert spec["imagePullSecrets"] == [{"name": "registry-login"}]
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "amd64"}
    assert spec["tolerations"][0]["key"] == "dedicated"
    assert "podAntiAffinity" in spec["affinity"]
    assert spec["terminationGracePeriodSeconds"] == 180
    assert spec["volumes"][0]["emptyDir"]["sizeLimit"] == "4Gi"
    assert labels["example.com/tier"] == "web"
    assert labels["app.kubernetes.io/instance"] == RELEASE, "the labels that are selected by win"
    assert pod(documents)["metadata"]["annotations"] == {"example.com/owner": "search"}
    assert only(documents, "ServiceAccount")["metadata"]["annotations"] == {"example.com/team": "search"}
    assert only(documents, "VirtualService")["spec"]["gateways"] == ["mesh-gateways/public"]


@pytest.mark.parametrize("release", ["page", "my-kserve-rag-frontend", "r" * 53])
def test_names_are_dns_labels(program: str, release: str) -> None:
    """Helm takes 53 characters for a release; a Service's name has at most 63."""
    found = render(program, *values_of("defaults"), release=release)
    assert [problem for document in found for problem in problems(document)] == []
    name = only(found, "Service")["metadata"]["name"]
    assert len(name) <= 63
    assert name.startswith(release)


@pytest.mark.parametrize(("version", "action"), [("1.25.0", "exec"), ("1.29.9", "exec"), ("1.30.1", "sleep")])
def test_older_clusters_sleep_with_a_command(program: str, version: str, action: str) -> None:
    """The action `sleep` is on by default since Kubernetes 1.30."""
    found = render(program, f"--kube-version={version}", *values_of("defaults"))
    assert set(container(found)["lifecycle"]["preStop"]) == {action}

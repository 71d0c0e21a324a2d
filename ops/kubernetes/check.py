"""Checks the manifests of this folder against the schemas of Kubernetes, and that everything they name exists.

Run by ops/deploy-check, which brings kubernetes-validate and, if there is a kubectl, what `kubectl kustomize` renders.
Kinds of others (KEDA, the Prometheus operator) have no schema here: of those only the references are checked.
"""

import pathlib
import re
import subprocess
import sys

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# The oldest supported version, and the newest.
VERSIONS = ["1.34.0", "1.37.0"]
OTHERS = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PrometheusRule"}
# Instead of a file that is listed, as its first lines say.
ALTERNATIVES = {HERE / "keda/redis-streams.yaml"}
SECRETS = "/run/secrets/rollbook/"

wrong = []


def expect(holds, what):
    if not holds:
        wrong.append(what)


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def named(document):
    return f"{document['kind']} {document.get('metadata', {}).get('name', '?')}"


def settings():
    """The names of all settings in the environment, those that may come as a file, and the defaults."""
    text = (ROOT / "ops/rollbook.toml").read_text()
    names = re.findall(r"^# In the environment: (\w+)(, or \w+_FILE)?", text, re.M)
    defaults = dict(re.findall(r'^#(\w+) = "?([^"\n]*)"?$', text, re.M))
    return {name for name, _ in names}, {name for name, file in names if file}, defaults


def pod_template(document):
    """The template of the pods of a Deployment, a Job or a CronJob; None of other kinds."""
    spec = document.get("spec", {})
    return spec.get("jobTemplate", {}).get("spec", spec).get("template")


def kustomizations():
    """Checks that every listed resource exists, and that every file is listed."""
    for path in sorted(HERE.rglob("kustomization.yaml")):
        kustomization = yaml.safe_load(path.read_text())
        listed = [(path.parent / name).resolve() for name in kustomization["resources"]]
        for file in listed:
            expect(file.exists(), f"{path}: there is no {file}")
        for file in path.parent.glob("*.yaml"):
            is_listed = file in listed or file == path or file in ALTERNATIVES
            expect(is_listed, f"{file} is in no kustomization.yaml")
        for generator in kustomization.get("configMapGenerator", []):
            for name in generator["envs"]:
                expect((path.parent / name).exists(), f"{path}: there is no {name}")


def schemas(everything):
    for document in everything:
        if document["kind"] in OTHERS:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                wrong.append(f"{named(document)}: Kubernetes {version}: {error.message}")


def matches(selector, labels):
    selector = selector or {}
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    expressions = selector.get("matchExpressions", [])
    expect(all(one["operator"] == "In" for one in expressions), "an operator that is not known here")
    return exact and all(labels.get(one["key"]) in one["values"] for one in expressions)


def references(everything):
    """Checks that selectors find pods, that ports have known names, and that targets exist."""
    pods = [document for document in everything if pod_template(document)]
    services = [document for document in everything if document["kind"] == "Service"]

    def chosen(selector):
        return [pod for pod in pods if matches(selector, pod_template(pod)["metadata"]["labels"])]

    def ports(of):
        containers = [container for pod in of for container in pod_template(pod)["spec"]["containers"]]
        return {port["name"] for container in containers for port in container.get("ports", [])}

    for document in everything:
        kind, spec = document["kind"], document.get("spec", {})
        if kind == "Deployment":
            labels = spec["template"]["metadata"]["labels"]
            expect(chosen(spec["selector"]) == [document], f"{named(document)}: its selector finds other pods too")
            for one in spec["template"]["spec"]["topologySpreadConstraints"]:
                expect(matches(one["labelSelector"], labels), f"{named(document)}: spreads other pods")
            for container in spec["template"]["spec"]["containers"]:
                for probe in ("livenessProbe", "readinessProbe"):
                    port = container[probe]["httpGet"]["port"]
                    expect(port in ports([document]), f"{named(document)}: no port {port}")
        if kind == "Service":
            found = chosen({"matchLabels": spec["selector"]})
            expect(found, f"{named(document)} finds no pod")
            for port in spec["ports"]:
                expect(port["targetPort"] in ports(found), f"{named(document)}: no port {port['targetPort']}")
        if kind == "PodDisruptionBudget":
            expect(len(chosen(spec["selector"])) == 1, f"{named(document)} finds not one Deployment")
        if kind == "NetworkPolicy":
            found = chosen(spec["podSelector"])
            expect(found, f"{named(document)} finds no pod")
            for rule in spec.get("ingress", []):
                for port in rule["ports"]:
                    expect(port["port"] in ports(found), f"{named(document)}: no port {port['port']}")
        if kind == "ServiceMonitor":
            found = [one for one in services if matches(spec["selector"], one["metadata"].get("labels", {}))]
            names = {port["name"] for one in found for port in one["spec"]["ports"]}
            for endpoint in spec["endpoints"]:
                expect(endpoint["port"] in names, f"{named(document)}: no Service with the port {endpoint['port']}")
        if kind == "ScaledObject":
            target = spec["scaleTargetRef"]["name"]
            is_there = any(pod["kind"] == "Deployment" and pod["metadata"]["name"] == target for pod in pods)
            expect(is_there, f"{named(document)}: there is no Deployment {target}")
            scaled_by(document)


def scaled_by(scaled):
    """Checks that the metrics and streams of triggers exist in the code."""
    sources = "".join(path.read_text() for path in (ROOT / "crates").rglob("src/**/*.rs"))
    sources += "".join(path.read_text() for path in (ROOT / "crates").rglob("src/**/*.lua"))
    for trigger in scaled["spec"]["triggers"]:
        metadata = trigger["metadata"]
        for metric in re.findall(r"rollbook_\w+", metadata.get("query", "")):
            expect(f'"{metric}"' in sources, f"{named(scaled)}: there is no metric {metric}")
        if trigger["type"] == "redis-streams":
            expect(metadata["stream"] == "{rollbook:0}:new", f"{named(scaled)}: another stream")
            expect(f"'{metadata['consumerGroup']}'" in sources, f"{named(scaled)}: another group")


def pods(everything, config):
    known, may_be_file, defaults = settings()
    expect(len(known) > 30, "ops/rollbook.toml names no settings")
    for name in config:
        expect(name in known, f"rollbook.env: there is no setting {name}")
    seconds = {key: int(value[:-1]) for key, value in defaults.items() if re.fullmatch(r"\d+s", value)}
    for name, value in config.items():
        key = name.removeprefix("ROLLBOOK_").lower()
        if key in seconds:
            seconds[key] = int(value.removesuffix("s"))
    commands = {path.stem for path in (ROOT / "crates/rollbook/tests/help").glob("*.txt")}
    for document in everything:
        template = pod_template(document)
        if template is None:
            continue
        pod = template["spec"]
        restricted(document, pod)
        (container,) = pod["containers"]
        expect(container["args"][0] in commands, f"{named(document)}: no command {container['args']}")
        expect({one["configMapRef"]["name"] for one in container["envFrom"]} == {"rollbook"}, f"{named(document)}: envFrom")
        mounted = {
            SECRETS + item["path"]
            for volume in pod["volumes"]
            for source in volume["projected"]["sources"]
            for item in source["secret"]["items"]
        }
        given = set()
        for variable in container["env"]:
            name = variable["name"].removesuffix("_FILE")
            expect(name in may_be_file and name != variable["name"], f"{named(document)}: {variable['name']}")
            given.add(variable["value"])
        expect(given == mounted, f"{named(document)}: {given ^ mounted} is mounted or named, not both")
        if document["kind"] == "Deployment":
            probe = container["readinessProbe"]
            notices = probe["periodSeconds"] * probe["failureThreshold"]
            expect(notices < seconds["stop_delay"], f"{named(document)}: the readiness probe is too rare")
            needed = seconds["stop_delay"] + seconds["drain_timeout"]
            expect(pod["terminationGracePeriodSeconds"] > needed, f"{named(document)}: it is killed within {needed} s")


def restricted(document, pod):
    """Checks the profile `restricted` of the pod security standards, and limits."""
    context = pod["securityContext"]
    expect(context["runAsNonRoot"] and context["seccompProfile"]["type"] == "RuntimeDefault", f"{named(document)}: pod")
    expect(not pod["automountServiceAccountToken"] and not pod["enableServiceLinks"], f"{named(document)}: pod")
    for container in pod["containers"]:
        context = container["securityContext"]
        expect(context["allowPrivilegeEscalation"] is False, f"{named(document)}: privileges")
        expect(context["capabilities"] == {"drop": ["ALL"]}, f"{named(document)}: capabilities")
        expect(context["readOnlyRootFilesystem"], f"{named(document)}: its root can be written to")
        resources = container["resources"]
        expect("memory" in resources["limits"] and "cpu" in resources["requests"], f"{named(document)}: resources")


def rules():
    """Checks that monitoring/rules prints what the operator reads, with all of ops/prometheus/rules."""
    source = ROOT / "ops/prometheus/rules"
    files = sorted(source.glob("*.yml"))
    if not files:
        return "no rules there yet"
    printed = subprocess.run([HERE / "monitoring/rules"], check=True, capture_output=True, text=True).stdout
    printed = documents(printed)
    expect(all(one["kind"] == "PrometheusRule" for one in printed), "monitoring/rules prints something else")
    expect([one["spec"] for one in printed] == [yaml.safe_load(file.read_text()) for file in files], "rules are changed")
    return f"{len(printed)} files of rules"


def give_up_if_wrong():
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        sys.exit(1)


def main():
    kustomizations()
    files = [path for path in sorted(HERE.rglob("*.yaml")) if path.name != "kustomization.yaml"]
    everything = [document for path in files for document in documents(path.read_text())]
    for document in everything:
        expect(document["kind"] != "Secret", "a secret in a file")
    lines = (HERE / "base/rollbook.env").read_text().splitlines()
    config = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    rendered = [document for file in sys.argv[1:] for document in documents(pathlib.Path(file).read_text())]
    schemas(everything + rendered)
    # A document of another form can't be checked further.
    give_up_if_wrong()
    references(everything)
    pods(everything, config)
    rule_files = rules()
    give_up_if_wrong()
    unknown = sorted({document["kind"] for document in everything if document["kind"] in OTHERS})
    print(
        f"ops/kubernetes: {len(everything)} objects as Kubernetes {' and '.join(VERSIONS)} want them, {len(rendered)} rendered; "
        f"references hold, {rule_files}; no schema for {', '.join(unknown)}"
    )


main()

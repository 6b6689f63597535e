"""Pods of the Helm chart as services of `laptop`, so that they run here as local processes.

A pod's container becomes a service with the same command, variables, user and read-only root. Each
key of a Secret or ConfigMap is mounted as a file of root's, with the mode of its volume, that the
pod's group may read, as kubelet does. The probes become health checks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from helm import Manifest, pods
from laptop import Model

Files = dict[str, dict[str, bytes]]
"""The content of each key of each Secret or ConfigMap, by its name."""


def services(folder: Path, manifests: list[Manifest], given: Files, names: list[str]) -> Model:
    """Returns pods as `laptop.Service` takes them.

    Args:
        folder: A folder for the files.
        manifests: What helm rendered.
        given: The Secrets and ConfigMaps that the chart does not make.
        names: Names in the cluster's DNS.
    """
    files = {
        m["metadata"]["name"]: {key: text.encode() for key, text in m["data"].items()}
        for m in manifests
        if m["kind"] == "ConfigMap"
    } | given
    made: Model = {"services": {}, "secrets": {}, "names": names}
    for part, pod in pods(manifests):
        made["services"][part] = _service(folder, part, pod, files, made["secrets"])
    return made


def _service(
    folder: Path, part: str, pod: Manifest, files: Files, secrets: dict[str, Any]
) -> Model:
    (container,) = pod["containers"]
    context = pod["securityContext"]
    spec: Model = {
        "image": "keyfold:test",
        "user": f"{context['runAsUser']}:{context['runAsGroup']}",
        "read_only": container["securityContext"]["readOnlyRootFilesystem"],
        "entrypoint": container["command"],
        "environment": {one["name"]: one["value"] for one in container.get("env", ())},
        "secrets": [],
        "tmpfs": [],
        "healthcheck": {"test": ["CMD", "true"]},
    }
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
    if "readinessProbe" in container:
        asked = container["readinessProbe"]["httpGet"]
        scheme = asked.get("scheme", "HTTP").lower()
        url = f"{scheme}://127.0.0.1:{ports[asked['port']]}{asked['path']}"
        # Kubelet does not check the certificate of what it probes either.
        spec["healthcheck"] = {"test": ["CMD", "curl", "-ksf", "-o", "/dev/null", url]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "emptyDir" in volume:
            spec["tmpfs"].append(f"{mount['mountPath']}:mode=1777")
        elif "persistentVolumeClaim" in volume:
            # With the group of the pod, by its fsGroup.
            spec["tmpfs"].append(f"{mount['mountPath']}:gid={context['fsGroup']},mode=2770")
        else:
            source = volume.get("secret") or volume["configMap"]
            content = files[source.get("secretName") or source["name"]]
            items = source.get("items") or [{"key": key, "path": key} for key in content]
            for item in items:
                name = f"{part}-{mount['name']}-{item['path']}"
                file = folder / name
                file.write_bytes(content[item["key"]])
                file.chmod(source.get("defaultMode", 0o644))
                os.chown(file, 0, context["fsGroup"])
                secrets[name] = {"file": str(file)}
                target = f"{mount['mountPath']}/{item['path']}"
                spec["secrets"].append({"source": name, "target": target})
    return spec

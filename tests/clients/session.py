"""A session of the official Python client, as its users write it."""

import sys
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

NAMESPACE = "python-session"
HOST = {"stint.dev/rootfs": "host"}


def did(what):
    print(f"did: {what}", flush=True)


def expect(holds, otherwise):
    if not holds:
        raise AssertionError(otherwise)


def job(name, command, **spec):
    container = client.V1Container(name="main", image="host", command=command)
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels={"app": name}, annotations=HOST),
        spec=client.V1PodSpec(containers=[container], restart_policy="Never", termination_grace_period_seconds=1),
    )
    return client.V1Job(
        metadata=client.V1ObjectMeta(name=name, labels={"app": name}),
        spec=client.V1JobSpec(template=template, **spec),
    )


def refused(status, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ApiException as error:
        expect(error.status == status, f"{status} expected, got {error.status}: {error.body}")
        return error
    raise AssertionError(f"{call.__name__} was not refused")


def wait_for(what, check, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"no {what} within {seconds} s")


def main(kubeconfig):
    config.load_kube_config(kubeconfig)
    core, batch = client.CoreV1Api(), client.BatchV1Api()
    expect(client.VersionApi().get_code().major == "1", "the version is Kubernetes 1")
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    did("create a namespace")

    core.create_namespaced_config_map(
        NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="words"), data={"greeting": "hello"})
    )
    expect(refused(409, core.create_namespaced_config_map, NAMESPACE,
                   client.V1ConfigMap(metadata=client.V1ObjectMeta(name="words"))).reason == "Conflict", "409 Conflict")
    refused(404, core.read_namespaced_config_map, "no-such", NAMESPACE)
    broken = job("broken", ["true"])
    broken.spec.template.spec.restart_policy = "Always"
    expect("restartPolicy" in refused(422, batch.create_namespaced_job, NAMESPACE, broken).body, "the field is named")
    did("be refused in three ways")

    seen = []
    # It begins when the watch has seen it.
    batch.create_namespaced_job(NAMESPACE, job("hello", ["sh", "-c", "echo hello; echo bye >&2"], suspend=True))
    for event in watch.Watch().stream(batch.list_namespaced_job, NAMESPACE, label_selector="app=hello", timeout_seconds=240):
        seen.append(event["type"])
        if len(seen) == 1:
            batch.patch_namespaced_job("hello", NAMESPACE, {"spec": {"suspend": False}})
        if event["object"].status.succeeded:
            break
    expect(seen[0] == "ADDED" and seen[-1] == "MODIFIED", f"events {seen}")
    did("watch a Job until it has succeeded")

    pods = core.list_namespaced_pod(NAMESPACE, label_selector="batch.kubernetes.io/job-name=hello").items
    expect(len(pods) == 1, "one pod")
    log = core.read_namespaced_pod_log(pods[0].metadata.name, NAMESPACE)
    expect("hello" in log and "bye" in log, f"log {log!r}")
    did("read a log")

    patched = batch.patch_namespaced_job("hello", NAMESPACE, {"metadata": {"labels": {"x": "1"}}})
    expect(patched.metadata.labels["x"] == "1", "a strategic merge patch")
    patched = batch.patch_namespaced_job("hello", NAMESPACE, [{"op": "remove", "path": "/metadata/labels/x"}])
    expect("x" not in patched.metadata.labels, "a JSON patch")
    did("patch in two ways")

    for number in range(5):
        meta = client.V1ObjectMeta(name=f"map{number}", labels={"page": "yes"})
        core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=meta))
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map(NAMESPACE, label_selector="page=yes", limit=2, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    expect(names == [f"map{number}" for number in range(5)], f"pages {names}")
    did("list in pages")

    batch.create_namespaced_job(NAMESPACE, job("sleeper", ["sleep", "600"]))
    running = lambda: [pod for pod in core.list_namespaced_pod(NAMESPACE, label_selector="app=sleeper").items
                       if pod.status.phase == "Running"]
    sleeper = wait_for("running pod", running)[0].metadata.name
    answer = stream(core.connect_get_namespaced_pod_exec, sleeper, NAMESPACE, command=["sh", "-c", "echo out; echo err >&2; exit 3"],
                    stderr=True, stdin=False, stdout=True, tty=False, _preload_content=False)
    answer.run_forever(timeout=240)
    expect(answer.read_stdout() == "out\n" and answer.read_stderr() == "err\n", "both streams of exec")
    expect(answer.returncode == 3, f"exit code {answer.returncode}")
    talk = stream(core.connect_get_namespaced_pod_exec, sleeper, NAMESPACE, command=["cat"],
                  stderr=True, stdin=True, stdout=True, tty=False, _preload_content=False)
    talk.write_stdin("line\n")
    expect(talk.readline_stdout(timeout=240) == "line", "stdin of exec")
    talk.close()
    did("execute in a pod")

    batch.delete_namespaced_job("sleeper", NAMESPACE, propagation_policy="Foreground")
    gone = lambda: not core.list_namespaced_pod(NAMESPACE, label_selector="app=sleeper").items
    wait_for("end of the pods", gone)
    wait_for("end of the Job", lambda: not [j for j in batch.list_namespaced_job(NAMESPACE).items if j.metadata.name == "sleeper"])
    did("delete a Job and its pods")

    cron = client.V1CronJob(
        metadata=client.V1ObjectMeta(name="nightly"),
        spec=client.V1CronJobSpec(schedule="0 3 29 2 *", job_template=client.V1JobTemplateSpec(spec=job("x", ["true"]).spec)),
    )
    created = batch.create_namespaced_cron_job(NAMESPACE, cron)
    expect(created.spec.concurrency_policy == "Allow", "defaults are filled in")
    created.spec.suspend = True
    expect(batch.replace_namespaced_cron_job("nightly", NAMESPACE, created).spec.suspend, "a replace")
    did("create and replace a CronJob")

    maps = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied", "namespace": NAMESPACE}, "data": {"a": "1"}}
    maps.server_side_apply(body=body, field_manager="one")
    body["data"] = {"a": "2"}
    conflict = refused(409, maps.server_side_apply, body=body, field_manager="two")
    expect('conflict with "one"' in conflict.body.decode() if isinstance(conflict.body, bytes) else conflict.body, "who is in the way")
    forced = maps.server_side_apply(body=body, field_manager="two", force_conflicts=True)
    expect(forced.data.a == "2", "a forced apply")
    did("apply on the server, with a conflict")

    core.delete_namespace(NAMESPACE)
    wait_for("end of the namespace", lambda: NAMESPACE not in [n.metadata.name for n in core.list_namespace().items])
    did("delete the namespace and all that is in it")


if __name__ == "__main__":
    main(sys.argv[1])

//! What kubectl can ask, and what one machine has not: the newest kubectl is told so in words that it understands. And what
//! would disturb the sessions that share a daemon: cordon and drain.

use serde_json::json;

use crate::Daemon;
use crate::kubectl::{Session, job, kubectls};

#[test]
fn what_is_not_here_is_told_as_a_cluster_tells_it_and_a_node_can_be_drained() {
    let Some((version, path)) = kubectls().pop_last() else {
        eprintln!("skipped: there is no kubectl on this machine");
        return;
    };
    let Some(daemon) = Daemon::with_agent() else { return };
    let session = Session::new(&daemon, &format!("kubectl {version}"), path);
    session.ok(&["create", "namespace", &session.namespace]);
    session.ok(&["config", "set-context", "--current", "--namespace", &session.namespace]);
    session.says(
        &["apply", "-f", session.file("long.yaml", &job("long", 0, "while sleep 0.2; do echo tick; done"))],
        "job.batch/long created",
    );
    session.says(
        &["wait", "--for=jsonpath={.status.ready}=1", "job/long", "--timeout=240s"],
        "job.batch/long condition met",
    );
    let pod = session.ok(&["get", "pod", "-l", "app=long", "-o", "jsonpath={.items[0].metadata.name}"]);
    lacks(&session);
    differs_on_the_server(&session);
    makes_tokens(&session);
    waits(&session);
    drains(&session, &pod);
    session.ok(&["delete", "namespace", &session.namespace]);
}

/// What there is none of.
fn lacks(session: &Session) {
    let absent = "the server could not find the requested resource";
    let refused: &[(&[&str], &str)] = &[
        (&["top", "pods"], "Metrics API not available"),
        (&["top", "nodes"], "Metrics API not available"),
        (&["rollout", "status", "deployment/x"], "deployments.apps \"x\" not found"),
        (&["rollout", "restart", "deployment/x"], "deployments.apps \"x\" not found"),
        (&["rollout", "status", "job/long"], "no status viewer has been implemented for Job.batch"),
        (&["scale", "deployment/x", "--replicas=2"], "deployments.apps \"x\" not found"),
        (&["scale", "job/long", "--replicas=2"], absent),
        (&["autoscale", "deployment/x", "--max=3"], "deployments.apps \"x\" not found"),
        (
            &["create", "deployment", "x", "--image=i"],
            "the server does not allow this method on the requested resource",
        ),
        (&["set", "image", "job/long", "main=x"], "field is immutable"),
        (&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"], absent),
        (&["certificate", "approve", "x"], "the server doesn't have a resource type \"certificatesigningrequests\""),
    ];
    for (args, part) in refused {
        session.refused(args, part);
    }
}

/// `diff` and `apply` by the server, against another manager.
fn differs_on_the_server(session: &Session) {
    let other = session.file("other.yaml", &job("long", 2, "while sleep 0.2; do echo tick; done"));
    session.ok(&["apply", "--server-side", "--field-manager=first", "--force-conflicts", "-f", "long.yaml"]);
    let diff = ["diff", "--server-side", "--field-manager=second", "-f", other];
    let told = session.run(&diff);
    assert!(told.code > 1 && told.errors.contains("conflict with \"first\""), "{told:?}");
    let told = session.run(&[&diff[..], &["--force-conflicts"]].concat());
    assert!(told.code == 1 && told.out.contains("-  backoffLimit: 0\n+  backoffLimit: 2\n"), "{told:?}");
    let apply = ["apply", "--server-side", "--field-manager=second", "-f", other];
    session.refused(&apply, "Apply failed with 1 conflict: conflict with \"first\": .spec.backoffLimit");
    session.says(&[&apply[..], &["--force-conflicts"]].concat(), "job.batch/long serverside-applied");
}

fn makes_tokens(session: &Session) {
    let token = session.ok(&["create", "token", "default"]);
    assert_eq!(token.split('.').count(), 3, "{token}");
    session.refused(&["create", "token", "none"], "serviceaccounts \"none\" not found");
    session
        .refused(&["create", "token", "default", "--duration=1m"], "may not specify a duration less than 10 minutes");
    let told = session.run(&["create", "token", "default", "--duration=99999h"]);
    let shortened = "Warning: requested expiration of 359996400 seconds shortened to 31536000 seconds";
    assert!(told.code == 0 && told.errors.contains(shortened), "{told:?}");
    let bound = ["create", "token", "default", "--bound-object-kind=Pod", "--bound-object-name=none"];
    session.refused(&bound, "pods \"none\" not found");
}

fn waits(session: &Session) {
    session.comes_to_show(&["events", "--for=job/long"], &["SuccessfulCreate", "Job/long", "Created pod: long-"]);
    let wait = |condition: &str, time: &str| {
        ["wait".to_owned(), format!("--for={condition}"), "job/long".into(), format!("--timeout={time}")]
    };
    for (condition, code) in [
        ("jsonpath={.status.active}=1", 0),
        ("jsonpath={.spec.template.spec.containers[0].name}=main", 0),
        ("jsonpath={.status.active}=7", 1),
        ("jsonpath={.status.nothing}", 1),
        ("condition=Complete", 1),
        ("condition=Complete=false", 1),
    ] {
        let args = wait(condition, if code == 0 { "240s" } else { "1s" });
        let told = session.run(&args.each_ref().map(String::as_str));
        assert_eq!(told.code, code, "{condition}: {told:?}");
        assert!(code == 0 || told.errors.contains("timed out waiting for the condition"), "{condition}: {told:?}");
    }
}

fn drains(session: &Session, pod: &str) {
    let alone = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "alone", "annotations": { "stint.dev/rootfs": "host" } },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [{ "name": "c", "image": "host", "command": ["sleep", "600"] }] },
    });
    session.ok(&["create", "-f", session.file("alone.yaml", &alone)]);
    session.ok(&["wait", "--for=condition=Ready", "pod/alone", "--timeout=240s"]);
    let node = session.ok(&["get", "node", "-o", "name"]);
    let node = node.trim();
    let name = node.trim_start_matches("node/");
    session.says(&["cordon", node], &format!("{node} cordoned"));
    session.shows(&["get", "nodes"], &["Ready,SchedulingDisabled"]);
    session.refused(&["drain", node], "cannot delete Pods that declare no controller (use --force to override)");
    let drained = session.ok(&["drain", node, "--force", "--grace-period=1", "--timeout=240s"]);
    for pod in [pod, "alone"] {
        assert!(drained.contains(&format!("pod/{pod} evicted\n")), "{drained}");
        session.refused(&["get", "pod", pod], "not found");
    }
    assert!(drained.ends_with(&format!("{node} drained\n")), "{drained}");
    session.says(&["uncordon", node], &format!("{node} uncordoned"));
    session.says(&["taint", "node", name, "a=b:NoSchedule"], &format!("{node} tainted"));
    session.shows(&["describe", node], &["Taints:", "a=b:NoSchedule", "Unschedulable:", "false"]);
    session.says(&["taint", "node", name, "a-"], &format!("{node} untainted"));
}

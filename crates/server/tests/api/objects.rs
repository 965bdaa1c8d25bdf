//! Objects through a real `kube::Client`: their lives from creation to deletion.

use crate::support::{client, config_map, job, pod};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Binding, ConfigMap, Namespace, Node, ObjectReference, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Error, ResourceExt};
use serde_json::json;

const POST: PostParams = PostParams { dry_run: false, field_manager: None };

fn reason(result: Result<impl std::fmt::Debug, Error>) -> (u16, String) {
    match result.unwrap_err() {
        Error::Api(status) => (status.code, status.reason),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_config_map_lives_from_creation_to_deletion() {
    let maps: Api<ConfigMap> = Api::default_namespaced(client());
    let made = maps.create(&POST, &config_map("a", "1")).await.unwrap();
    assert_eq!(made.namespace().as_deref(), Some("default"));
    assert_eq!(made.creation_timestamp().unwrap().0.to_string(), "2026-01-02T03:04:05Z");
    assert!(made.uid().is_some() && made.metadata.generation.is_none());
    assert_eq!(maps.get("a").await.unwrap(), made);

    let mut changed = made.clone();
    changed.data.get_or_insert_default().insert("k".into(), "2".into());
    let replaced = maps.replace("a", &POST, &changed).await.unwrap();
    let number = |map: &ConfigMap| map.resource_version().unwrap().parse::<u64>().unwrap();
    assert!(number(&replaced) > number(&made));
    let list = maps.list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items, vec![replaced.clone()]);
    assert_eq!(list.metadata.resource_version, replaced.resource_version());

    let gone = maps.delete("a", &DeleteParams::default()).await.unwrap().unwrap_right();
    assert_eq!(
        (gone.status, gone.details.unwrap().uid),
        (Some(kube::core::response::StatusSummary::Success), made.uid().unwrap())
    );
    assert_eq!(reason(maps.get("a").await), (404, "NotFound".into()));
    assert_eq!(reason(maps.delete("a", &DeleteParams::default()).await), (404, "NotFound".into()));
}

#[tokio::test]
async fn a_stale_update_is_a_conflict_and_an_unversioned_one_is_not() {
    let maps: Api<ConfigMap> = Api::default_namespaced(client());
    let made = maps.create(&POST, &config_map("a", "1")).await.unwrap();
    let mut newer = config_map("a", "2");
    maps.replace("a", &POST, &newer).await.unwrap();
    let mut stale = made.clone();
    stale.data.clone_from(&config_map("a", "3").data);
    assert_eq!(reason(maps.replace("a", &POST, &stale).await), (409, "Conflict".into()));
    newer.metadata.uid = Some("another".into());
    assert_eq!(reason(maps.replace("a", &POST, &newer).await), (409, "Conflict".into()));
    assert_eq!(reason(maps.create(&POST, &made_again("a")).await), (409, "AlreadyExists".into()));
}

fn made_again(name: &str) -> ConfigMap {
    config_map(name, "again")
}

#[tokio::test]
async fn an_update_that_changes_nothing_keeps_the_resource_version() {
    let client = client();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let made = maps.create(&POST, &config_map("a", "1")).await.unwrap();
    assert_eq!(maps.replace("a", &POST, &made).await.unwrap(), made);
    assert_eq!(maps.replace("a", &POST, &config_map("a", "1")).await.unwrap(), made);
    for patch in [json!({}), json!({"data": {"k": "1"}})] {
        assert_eq!(maps.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap(), made);
        assert_eq!(maps.patch("a", &PatchParams::default(), &Patch::Strategic(&patch)).await.unwrap(), made);
    }
    let jobs: Api<Job> = Api::default_namespaced(client);
    let made = jobs.create(&POST, &job("j")).await.unwrap();
    assert_eq!(jobs.replace("j", &POST, &made).await.unwrap(), made);
}

#[tokio::test]
async fn generated_names_are_tried_until_one_is_free() {
    let maps: Api<ConfigMap> = Api::default_namespaced(client());
    let mut map = config_map("", "1");
    map.metadata.name = None;
    map.metadata.generate_name = Some("some-".into());
    let first = maps.create(&POST, &map).await.unwrap();
    let second = maps.create(&POST, &map).await.unwrap();
    assert_eq!((first.name_any().as_str(), second.name_any().as_str()), ("some-bbbbb", "some-bbbbc"));
}

#[tokio::test]
async fn a_job_counts_the_generations_of_its_spec_only() {
    let jobs: Api<Job> = Api::default_namespaced(client());
    let made = jobs.create(&POST, &job("j")).await.unwrap();
    assert_eq!((made.metadata.generation, made.status.is_some()), (Some(1), true));
    let uid = made.uid().unwrap();
    let selector = made.spec.as_ref().unwrap().selector.clone().unwrap().match_labels.unwrap();
    assert_eq!(selector["batch.kubernetes.io/controller-uid"], uid);

    let labelled = json!({"metadata": {"labels": {"x": "y"}}, "status": {"active": 5}});
    let labelled = jobs.patch("j", &PatchParams::default(), &Patch::Merge(labelled)).await.unwrap();
    assert_eq!((labelled.metadata.generation, labelled.status.unwrap().active), (Some(1), None));

    let wider = json!({"spec": {"parallelism": 3}});
    let wider = jobs.patch("j", &PatchParams::default(), &Patch::Merge(wider)).await.unwrap();
    assert_eq!(wider.metadata.generation, Some(2));

    let mut status = wider.clone();
    status.spec.as_mut().unwrap().parallelism = Some(9);
    status.status.get_or_insert_default().active = Some(2);
    status.metadata.annotations.get_or_insert_default().insert("a".into(), "b".into());
    let status = jobs.replace_status("j", &POST, &status).await.unwrap();
    assert_eq!(status.spec, wider.spec);
    assert_eq!(status.metadata.generation, Some(2));
    assert_eq!(status.annotations()["a"], "b");
    assert_eq!(status.status.unwrap().active, Some(2));
    assert_eq!(jobs.get_status("j").await.unwrap().status.unwrap().active, Some(2));
}

#[tokio::test]
async fn a_finalizer_holds_a_terminating_object_until_it_is_taken_away() {
    let maps: Api<ConfigMap> = Api::default_namespaced(client());
    let mut map = config_map("a", "1");
    map.metadata.finalizers = Some(vec!["example.com/x".into()]);
    let made = maps.create(&POST, &map).await.unwrap();
    let marked = maps.delete("a", &DeleteParams::default()).await.unwrap().unwrap_left();
    assert!(marked.metadata.deletion_timestamp.is_some());
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(0));
    let again = maps.delete("a", &DeleteParams::default()).await.unwrap().unwrap_left();
    assert_eq!(again.resource_version(), marked.resource_version());

    let more = json!({"metadata": {"finalizers": ["example.com/x", "example.com/y"]}});
    assert_eq!(reason(maps.patch("a", &PatchParams::default(), &Patch::Merge(more)).await), (422, "Invalid".into()));

    let none = json!({"metadata": {"finalizers": null}});
    let last = maps.patch("a", &PatchParams::default(), &Patch::Merge(none)).await.unwrap();
    assert_eq!((last.uid(), last.metadata.finalizers), (made.uid(), None));
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn jobs_leave_their_pods_alone_unless_told_otherwise() {
    let jobs: Api<Job> = Api::default_namespaced(client());
    for (name, params, finalizers) in [
        ("orphan", DeleteParams::default(), Some("orphan")),
        ("foreground", DeleteParams::foreground(), Some("foregroundDeletion")),
        ("background", DeleteParams::background(), None),
    ] {
        jobs.create(&POST, &job(name)).await.unwrap();
        jobs.delete(name, &params).await.unwrap();
        let left = jobs.get_opt(name).await.unwrap();
        assert_eq!(left.as_ref().and_then(|job| job.finalizers().first().map(String::as_str)), finalizers, "{name}");
        assert!(left.is_none_or(|job| job.metadata.generation == Some(2)));
    }
}

#[tokio::test]
async fn a_deletion_keeps_its_preconditions() {
    let maps: Api<ConfigMap> = Api::default_namespaced(client());
    let made = maps.create(&POST, &config_map("a", "1")).await.unwrap();
    let with = |uid: Option<String>, resource_version: Option<String>| DeleteParams {
        preconditions: Some(Preconditions { uid, resource_version }),
        ..DeleteParams::default()
    };
    let other = maps.delete("a", &with(Some("other".into()), None)).await;
    assert_eq!(reason(other), (409, "Conflict".into()));
    assert_eq!(reason(maps.delete("a", &with(None, Some("1".into()))).await), (409, "Conflict".into()));
    maps.delete("a", &with(made.uid(), made.resource_version())).await.unwrap();
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let client = client();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let made = pods.create(&POST, &pod("p")).await.unwrap();
    assert_eq!(made.status.as_ref().unwrap().phase.as_deref(), Some("Pending"));
    let binding = Binding {
        metadata: made.metadata.clone(),
        target: ObjectReference { name: Some("n1".into()), ..ObjectReference::default() },
    };
    pods.create_subresource::<_, serde_json::Value>("binding", "p", &POST, &binding).await.unwrap();
    let bound = pods.get("p").await.unwrap();
    assert_eq!(bound.spec.unwrap().node_name.as_deref(), Some("n1"));
    assert_eq!(bound.metadata.generation, made.metadata.generation);
    let conditions = bound.status.unwrap().conditions.unwrap();
    assert_eq!((conditions[0].type_.as_str(), conditions[0].status.as_str()), ("PodScheduled", "True"));
    let again = pods.create_subresource::<_, serde_json::Value>("binding", "p", &POST, &binding).await;
    assert_eq!(reason(again), (409, "Conflict".into()));
    let on_node = ListParams::default().fields("spec.nodeName=n1");
    assert_eq!(pods.list(&on_node).await.unwrap().items.len(), 1);
    let elsewhere = ListParams::default().fields("spec.nodeName!=n1");
    assert_eq!(pods.list(&elsewhere).await.unwrap().items.len(), 0);
}

async fn bind(pods: &Api<Pod>, name: &str) {
    let body = json!({"metadata": {"name": name}, "target": {"name": "n1"}});
    pods.create_subresource::<_, serde_json::Value>("binding", name, &POST, &body).await.unwrap();
}

#[tokio::test]
async fn a_bound_pod_goes_when_its_agent_says_so() {
    let pods: Api<Pod> = Api::default_namespaced(client());
    pods.create(&POST, &pod("p")).await.unwrap();
    bind(&pods, "p").await;
    let marked = pods.delete("p", &DeleteParams::default()).await.unwrap().unwrap_left();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
    assert_eq!(marked.metadata.deletion_timestamp.unwrap().0.to_string(), "2026-01-02T03:04:35Z");
    let sooner = pods.delete("p", &DeleteParams::default().grace_period(5)).await.unwrap().unwrap_left();
    assert_eq!(sooner.metadata.deletion_timestamp.unwrap().0.to_string(), "2026-01-02T03:04:10Z");
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(pods.get_opt("p").await.unwrap().is_none());
}

#[tokio::test]
async fn a_tracked_pod_outlives_its_agent_until_the_controller_has_counted_it() {
    let pods: Api<Pod> = Api::default_namespaced(client());
    let mut tracked = pod("p");
    tracked.metadata.finalizers = Some(vec!["batch.kubernetes.io/job-tracking".into()]);
    pods.create(&POST, &tracked).await.unwrap();
    bind(&pods, "p").await;
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(pods.get("p").await.unwrap().metadata.deletion_grace_period_seconds, Some(0));
    let counted = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["batch.kubernetes.io/job-tracking"]}});
    pods.patch("p", &PatchParams::default(), &Patch::Strategic(counted)).await.unwrap();
    assert!(pods.get_opt("p").await.unwrap().is_none());
}

#[tokio::test]
async fn an_agent_writes_the_status_and_nothing_but_the_status() {
    let pods: Api<Pod> = Api::default_namespaced(client());
    let made = pods.create(&POST, &pod("p")).await.unwrap();
    let status = json!({"spec": {"hostname": "x"}, "status": {"phase": "Running", "podIP": "10.0.0.1"}});
    let running = pods.patch_status("p", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    assert_eq!(running.spec, made.spec);
    let status = running.status.unwrap();
    assert_eq!((status.phase.as_deref(), status.pod_ip.as_deref()), (Some("Running"), Some("10.0.0.1")));
    assert_eq!(status.qos_class, made.status.unwrap().qos_class);
    let back = json!({"status": {"phase": "Pending"}});
    let back = pods.patch("p", &PatchParams::default(), &Patch::Merge(back)).await.unwrap();
    assert_eq!(back.status.unwrap().phase.as_deref(), Some("Running"));
}

#[tokio::test]
async fn a_pods_spec_may_change_in_its_images_only() {
    let pods: Api<Pod> = Api::default_namespaced(client());
    pods.create(&POST, &pod("p")).await.unwrap();
    let image = json!({"spec": {"containers": [{"name": "c", "image": "busybox:2"}]}});
    let image = pods.patch("p", &PatchParams::default(), &Patch::Strategic(image)).await.unwrap();
    assert_eq!(image.metadata.generation, Some(2));
    let command = json!({"spec": {"containers": [{"name": "c", "command": ["x"]}]}});
    assert_eq!(reason(pods.patch("p", &PatchParams::default(), &Patch::Strategic(command)).await).0, 422);
}

#[tokio::test]
async fn ephemeral_containers_are_added_to_a_pod_and_stay() {
    let pods: Api<Pod> = Api::default_namespaced(client());
    pods.create(&POST, &pod("p")).await.unwrap();
    let with = |list: serde_json::Value| json!({"spec": {"ephemeralContainers": list}});
    let patch = async |body: serde_json::Value| {
        pods.patch_ephemeral_containers("p", &PatchParams::default(), &Patch::Strategic(body)).await
    };
    let debugger = json!({"name": "d", "image": "busybox:1", "targetContainerName": "c", "stdin": true});
    let mut more = with(json!([debugger]));
    more["spec"]["activeDeadlineSeconds"] = json!(5);
    let changed = patch(more).await.unwrap();
    let spec = changed.spec.unwrap();
    assert_eq!((changed.metadata.generation, spec.active_deadline_seconds), (Some(2), None), "nothing else changes");
    let added = &spec.ephemeral_containers.unwrap()[0];
    assert_eq!(added.termination_message_policy.as_deref(), Some("File"), "defaults are filled in");
    for (body, why) in [
        (with(json!([{"name": "d", "image": "busybox:2"}])), "existing ephemeral containers \"d\" may not be changed"),
        (with(json!([{"name": "d", "$patch": "delete"}])), "existing ephemeral containers \"d\" may not be removed"),
        (with(json!([{"name": "c", "image": "x"}])), "].name: Duplicate value: \"c\""),
        (
            with(json!([{"name": "e", "image": "x", "targetContainerName": "z"}])),
            "targetContainerName: Not found: \"z\"",
        ),
        (
            with(json!([{"name": "e", "image": "x", "ports": [{"containerPort": 1}]}])),
            "ports: Forbidden: cannot be set for an Ephemeral Container",
        ),
    ] {
        let refused = patch(body.clone()).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{body}: {refused}");
    }
    // By the pod itself they can't be changed.
    let main =
        pods.patch("p", &PatchParams::default(), &Patch::Strategic(with(json!([{"name": "f", "image": "x"}])))).await;
    assert_eq!(reason(main).0, 422);
    let read = pods.get_ephemeral_containers("p").await.unwrap();
    assert_eq!(read.spec.unwrap().ephemeral_containers.unwrap().len(), 1);
}

#[tokio::test]
async fn json_patches_apply_or_are_refused_as_a_whole() {
    let maps: Api<ConfigMap> = Api::default_namespaced(client());
    let made = maps.create(&POST, &config_map("a", "1")).await.unwrap();
    let good = serde_json::from_value(json!([
        {"op": "test", "path": "/data/k", "value": "1"}, {"op": "replace", "path": "/data/k", "value": "2"},
    ]));
    let changed = maps.patch("a", &PatchParams::default(), &Patch::Json::<()>(good.unwrap())).await.unwrap();
    assert_eq!(changed.data.unwrap()["k"], "2");
    let bad = json!([{"op": "add", "path": "/data/x", "value": "1"}, {"op": "remove", "path": "/data/none"}]);
    let bad = serde_json::from_value(bad).unwrap();
    assert_eq!(
        reason(maps.patch("a", &PatchParams::default(), &Patch::Json::<()>(bad)).await),
        (422, "Invalid".into())
    );
    assert!(!maps.get("a").await.unwrap().data.unwrap().contains_key("x"));
    let stale = json!({"metadata": {"resourceVersion": made.resource_version()}, "data": {"k": "3"}});
    assert_eq!(reason(maps.patch("a", &PatchParams::default(), &Patch::Merge(stale)).await), (409, "Conflict".into()));
    let adopt = json!({"metadata": {"uid": "another"}, "data": {"k": "3"}});
    assert_eq!(reason(maps.patch("a", &PatchParams::default(), &Patch::Merge(adopt)).await), (409, "Conflict".into()));
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let maps: Api<ConfigMap> = Api::default_namespaced(client());
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let would = maps.create(&dry, &config_map("a", "1")).await.unwrap();
    assert!(would.uid().is_some() && would.resource_version().is_none());
    assert!(maps.get_opt("a").await.unwrap().is_none());
    let made = maps.create(&POST, &config_map("a", "1")).await.unwrap();
    let would = maps.replace("a", &dry, &config_map("a", "2")).await.unwrap();
    assert_eq!(would.data.unwrap()["k"], "2");
    maps.delete("a", &DeleteParams { dry_run: true, ..DeleteParams::default() }).await.unwrap();
    assert_eq!(maps.get("a").await.unwrap(), made);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let pods: Api<Pod> = Api::default_namespaced(client());
    for name in ["a", "b", "c"] {
        pods.create(&POST, &pod(name)).await.unwrap();
    }
    let some = ListParams::default().labels("app in (a,b)");
    let policy = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    let gone = pods.delete_collection(&policy, &some).await.unwrap().unwrap_left();
    assert_eq!(gone.items.len(), 2);
    let left = pods.list(&ListParams::default()).await.unwrap();
    assert_eq!(left.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["c"]);
}

#[tokio::test]
async fn the_other_kinds_are_stored() {
    let client = client();
    let nodes: Api<Node> = Api::all(client.clone());
    let node = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"nodeInfo": null}})).unwrap();
    nodes.create(&POST, &node).await.unwrap();
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let node = nodes.patch_status("n", &PatchParams::default(), &Patch::Strategic(ready)).await.unwrap();
    assert_eq!(node.status.unwrap().conditions.unwrap()[0].status, "True");

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let names: Vec<_> =
        namespaces.list(&ListParams::default()).await.unwrap().iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["default"]);
    let team = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    namespaces.create(&POST, &team).await.unwrap();

    let secrets: Api<Secret> = Api::namespaced(client.clone(), "team");
    let secret = serde_json::from_value(json!({"metadata": {"name": "s"}, "stringData": {"k": "v"}})).unwrap();
    let secret = secrets.create(&POST, &secret).await.unwrap();
    assert_eq!((secret.data.unwrap()["k"].0.as_slice(), secret.type_.as_deref()), (b"v".as_slice(), Some("Opaque")));

    let cron_jobs: Api<CronJob> = Api::namespaced(client, "team");
    let template = json!({"spec": job("x").spec});
    let cron_job = json!({"metadata": {"name": "c"}, "spec": {"schedule": "* * * * *", "jobTemplate": template}});
    let cron_job = cron_jobs.create(&POST, &serde_json::from_value(cron_job).unwrap()).await.unwrap();
    assert_eq!((cron_job.metadata.generation, cron_job.status.is_some()), (Some(1), true));
}

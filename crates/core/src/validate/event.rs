//! Events: those that count occurrences (core/v1's old form) and those that say when (`eventTime` is set).
//!
//! Upstream: `pkg/apis/core/validation/events.go`, v1.36.

use k8s_openapi::api::core::v1::Event;

use super::{NameRule, invalid_for, object_meta, object_meta_update, text};
use crate::field::{Fault, Path, Value};
use crate::names;

/// The most characters of an action, a reason and a reporting instance.
const WORD: usize = 128;
/// The most characters of a message.
const NOTE: usize = 1024;

/// In which shape an event was sent; the newer one is held to more rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventShape {
    /// core/v1.
    Core,
    /// events.k8s.io/v1.
    Events,
}

pub(super) fn create(event: &Event, shape: EventShape, faults: &mut Vec<Fault>) {
    legacy(event, shape, faults);
    if shape == EventShape::Core {
        object_meta(&event.metadata, NameRule::PathSegment, faults);
        return;
    }
    object_meta(&event.metadata, NameRule::DnsSubdomain, faults);
    let root = Path::root();
    series(event, faults);
    if event.event_time.is_none() {
        faults.push(Fault::required(&root.field("eventTime"), ""));
    }
    let kind = text(event.type_.as_ref());
    if !matches!(kind, "Normal" | "Warning") {
        faults.push(Fault::invalid(&root.field("type"), "", format!("has invalid value: {kind}")));
    }
    let source = event.source.clone().unwrap_or_default();
    let used = |part: Option<String>| part.is_some_and(|part| !part.is_empty());
    let unset = [
        ("firstTimestamp", event.first_timestamp.is_some()),
        ("lastTimestamp", event.last_timestamp.is_some()),
        ("count", event.count.is_some_and(|count| count != 0)),
        ("source", used(source.component) || used(source.host)),
    ];
    for (field, _) in unset.into_iter().filter(|(_, set)| *set) {
        faults.push(Fault::invalid(&root.field(field), "", "needs to be unset"));
    }
}

pub(super) fn update(old: &Event, new: &Event, shape: EventShape, faults: &mut Vec<Fault>) {
    object_meta_update(&old.metadata, &new.metadata, faults);
    legacy(new, shape, faults);
    if shape == EventShape::Core {
        return;
    }
    let root = Path::root();
    // If the series was modified, it is checked; everything else stays.
    if old.series != new.series {
        series(new, faults);
    }
    let mut frozen = |field: &str, old: Value, new: Value| {
        if old != new {
            faults.push(Fault::invalid(&root.field(field), new, "field is immutable"));
        }
    };
    let show = |event: &Event| {
        [
            ("involvedObject", Value::json(&event.involved_object)),
            ("reason", Value::json(&event.reason)),
            ("message", Value::json(&event.message)),
            ("source", Value::json(&event.source)),
            ("firstTimestamp", Value::json(&event.first_timestamp)),
            ("lastTimestamp", Value::json(&event.last_timestamp)),
            ("count", Value::json(&event.count.unwrap_or_default())),
            ("type", Value::json(&event.type_)),
            ("eventTime", Value::json(&event.event_time)),
            ("action", Value::json(&event.action)),
            ("related", Value::json(&event.related)),
            ("reportingController", Value::json(&event.reporting_component)),
            ("reportingInstance", Value::json(&event.reporting_instance)),
        ]
    };
    for ((field, old), (_, new)) in show(old).into_iter().zip(show(new)) {
        frozen(field, old, new);
    }
}

fn series(event: &Event, faults: &mut Vec<Fault>) {
    let Some(series) = &event.series else { return };
    let root = Path::root();
    let path = root.field("series");
    if series.count.unwrap_or_default() < 2 {
        faults.push(Fault::invalid(&path.field("count"), "", "should be at least 2"));
    }
    if series.last_observed_time.is_none() {
        faults.push(Fault::required(&path.field("lastObservedTime"), ""));
    }
}

fn legacy(event: &Event, shape: EventShape, faults: &mut Vec<Fault>) {
    let root = Path::root();
    let namespace = text(event.metadata.namespace.as_ref());
    let about = text(event.involved_object.namespace.as_ref());
    let elsewhere = |faults: &mut Vec<Fault>| {
        let involved = root.field("involvedObject");
        faults.push(Fault::invalid(&involved.field("namespace"), about, "does not match event.namespace"));
    };
    if event.event_time.is_none() {
        // What is about a cluster-wide object is in the default namespace.
        if (about.is_empty() && !matches!(namespace, "" | "default")) || (!about.is_empty() && namespace != about) {
            elsewhere(faults);
        }
    } else {
        if about.is_empty() && !matches!(namespace, "default" | "kube-system") {
            elsewhere(faults);
        }
        let field = if shape == EventShape::Core { "reportingComponent" } else { "reportingController" };
        let controller = text(event.reporting_component.as_ref());
        if controller.is_empty() {
            faults.push(Fault::required(&root.field(field), ""));
        }
        invalid_for(names::qualified_name(controller), &root.field(field), controller, faults);
        for (field, value) in
            [("reportingInstance", &event.reporting_instance), ("action", &event.action), ("reason", &event.reason)]
        {
            match text(value.as_ref()).len() {
                0 => faults.push(Fault::required(&root.field(field), "")),
                1..=WORD => {}
                _ => faults.push(Fault::invalid(&root.field(field), "", at_most(WORD))),
            }
        }
        if text(event.message.as_ref()).len() > NOTE {
            faults.push(Fault::invalid(&root.field("message"), "", at_most(NOTE)));
        }
    }
    invalid_for(names::dns_subdomain(namespace), &root.field("namespace"), namespace, faults);
}

fn at_most(characters: usize) -> String {
    format!("can have at most {characters} characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(event: serde_json::Value, shape: EventShape) -> Vec<String> {
        let event: Event = serde_json::from_value(event).unwrap();
        let mut faults = Vec::new();
        create(&event, shape, &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_old_event_must_be_in_the_namespace_of_what_it_is_about() {
        let event = |namespace: &str, about: &str| serde_json::json!({"metadata": {"name": "e", "namespace": namespace}, "involvedObject": {"namespace": about}});
        for (namespace, about) in [("a", "a"), ("default", "")] {
            assert_eq!(faults(event(namespace, about), EventShape::Core), Vec::<String>::new());
        }
        for (namespace, about) in [("a", "b"), ("a", "")] {
            let wrong = format!("involvedObject.namespace: Invalid value: {about:?}: does not match event.namespace");
            assert_eq!(faults(event(namespace, about), EventShape::Core), [wrong]);
        }
    }

    #[test]
    fn the_newer_shape_is_held_to_more_rules() {
        let mut event = serde_json::json!({
            "metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"namespace": "a"}, "type": "Normal",
            "eventTime": "2026-01-02T03:04:05.000000Z", "reportingComponent": "example.com/x",
            "reportingInstance": "x-1", "action": "Do", "reason": "Done",
        });
        assert_eq!(faults(event.clone(), EventShape::Events), Vec::<String>::new());
        event["count"] = 1.into();
        event["type"] = "Odd".into();
        event["series"] = serde_json::json!({"count": 1, "lastObservedTime": "2026-01-02T03:04:05.000000Z"});
        assert_eq!(
            faults(event.clone(), EventShape::Events),
            [
                "series.count: Invalid value: \"\": should be at least 2",
                "type: Invalid value: \"\": has invalid value: Odd",
                "count: Invalid value: \"\": needs to be unset",
            ]
        );
        assert_eq!(faults(event, EventShape::Core), Vec::<String>::new());
    }
}

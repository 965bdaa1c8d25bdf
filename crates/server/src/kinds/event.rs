//! Events: one store of objects, in the two shapes of core/v1 and events.k8s.io/v1.
//!
//! Invariant: an event is stored in the shape of core/v1, whichever way it came, and can be read in both.
//! Upstream: `pkg/registry/core/event/strategy.go`, `pkg/apis/events/v1/conversion.go`, v1.36.

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Event as Core, EventSeries as CoreSeries};
use k8s_openapi::api::events::v1::{Event, EventSeries};
use stint_core::field::Fault;
use stint_core::json;
use stint_core::validate;
use stint_store::Revision;

use crate::encoding::Encoded;
use crate::strategy::{SelectableField, Strategy, UnknownField};

impl Strategy for Core {
    const CREATE_ON_UPDATE: bool = true;
    const FIELDS: &'static [SelectableField] = &[
        ("involvedObject.kind", &["involvedObject", "kind"], ""),
        ("involvedObject.namespace", &["involvedObject", "namespace"], ""),
        ("involvedObject.name", &["involvedObject", "name"], ""),
        ("involvedObject.uid", &["involvedObject", "uid"], ""),
        ("involvedObject.apiVersion", &["involvedObject", "apiVersion"], ""),
        ("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"], ""),
        ("involvedObject.fieldPath", &["involvedObject", "fieldPath"], ""),
        ("reason", &["reason"], ""),
        ("reportingComponent", &["reportingComponent"], ""),
        ("source", &["source", "component"], ""),
        ("type", &["type"], ""),
    ];
    const UNKNOWN_FIELD: UnknownField = UnknownField::Plain;

    fn create_faults(&self) -> Vec<Fault> {
        validate::event_create(self, validate::EventShape::Core)
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        validate::event_update(old, self, validate::EventShape::Core)
    }
}

impl Strategy for Event {
    const CREATE_ON_UPDATE: bool = true;
    const STORAGE_GROUP: &'static str = "";
    const SHOW: Option<fn(&[u8]) -> Bytes> = Some(show);
    // Selectors look at what is stored.
    const FIELDS: &'static [SelectableField] = &[
        ("regarding.kind", &["involvedObject", "kind"], ""),
        ("regarding.namespace", &["involvedObject", "namespace"], ""),
        ("regarding.name", &["involvedObject", "name"], ""),
        ("regarding.uid", &["involvedObject", "uid"], ""),
        ("regarding.apiVersion", &["involvedObject", "apiVersion"], ""),
        ("regarding.resourceVersion", &["involvedObject", "resourceVersion"], ""),
        ("regarding.fieldPath", &["involvedObject", "fieldPath"], ""),
        ("reason", &["reason"], ""),
        ("reportingController", &["reportingComponent"], ""),
        ("type", &["type"], ""),
    ];
    const UNKNOWN_FIELD: UnknownField = UnknownField::Plain;

    fn encode(&self) -> Encoded {
        Encoded::of(&core(self.clone()))
    }

    fn reads_back(&self) -> bool {
        false // of what it is about, a core event always says something
    }

    fn load(stored: &[u8]) -> serde_json::Result<Self> {
        json::read(stored).map(event)
    }

    fn create_faults(&self) -> Vec<Fault> {
        validate::event_create(&core(self.clone()), validate::EventShape::Events)
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        validate::event_update(&core(old.clone()), &core(self.clone()), validate::EventShape::Events)
    }
}

/// The bytes of a stored event in the shape of events.k8s.io/v1.
fn show(stored: &[u8]) -> Bytes {
    let mut shown = Event::load(stored).expect("what is stored was encoded from an event");
    let revision = shown.metadata.resource_version.take().and_then(|text| text.parse().ok());
    let encoded = Encoded::of(&shown);
    // A dry run's event has no revision.
    revision.map_or_else(|| encoded.unversioned(), |revision| encoded.at(Revision(revision)))
}

fn event(core: Core) -> Event {
    Event {
        action: core.action,
        deprecated_count: core.count,
        deprecated_first_timestamp: core.first_timestamp,
        deprecated_last_timestamp: core.last_timestamp,
        deprecated_source: core.source,
        event_time: core.event_time,
        metadata: core.metadata,
        note: core.message,
        reason: core.reason,
        regarding: Some(core.involved_object),
        related: core.related,
        reporting_controller: core.reporting_component,
        reporting_instance: core.reporting_instance,
        series: core.series.map(|series| EventSeries {
            count: series.count.unwrap_or_default(),
            last_observed_time: series
                .last_observed_time
                .unwrap_or(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(jiff::Timestamp::UNIX_EPOCH)),
        }),
        type_: core.type_,
    }
}

fn core(event: Event) -> Core {
    Core {
        action: event.action,
        count: event.deprecated_count,
        first_timestamp: event.deprecated_first_timestamp,
        last_timestamp: event.deprecated_last_timestamp,
        source: event.deprecated_source,
        event_time: event.event_time,
        metadata: event.metadata,
        message: event.note,
        reason: event.reason,
        involved_object: event.regarding.unwrap_or_default(),
        related: event.related,
        reporting_component: event.reporting_controller,
        reporting_instance: event.reporting_instance,
        series: event.series.map(|series| CoreSeries {
            count: Some(series.count),
            last_observed_time: Some(series.last_observed_time),
        }),
        type_: event.type_,
    }
}

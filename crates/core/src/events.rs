//! Kubernetes Events as one component tells them: what is said again is counted, what is said alike is combined, and a
//! flood is cut (section 5.13 of the API).
//!
//! Invariant: what [`Journal::tell`] yields is to be written in its order, since one that is counted up follows its own
//! creation.
//! Upstream: `client-go/tools/record/event.go` (`makeEvent`), v1.36.

mod correlate;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use crate::plan::Severity;
use correlate::{Correlator, Draft};

/// For how long an Event is kept after it was last told (kube-apiserver's `--event-ttl`).
const KEPT: SignedDuration = SignedDuration::from_hours(1);

/// What one component has told, as far as it matters for what it tells next.
#[derive(Debug)]
pub struct Journal {
    component: &'static str,
    host: Option<String>,
    correlator: Correlator,
    /// Tells Events of one nanosecond apart.
    serial: u64,
}

impl Journal {
    /// Of a component that has told nothing yet; `host` is the node that it speaks for.
    pub fn new(component: &'static str, host: Option<String>) -> Journal {
        Journal { component, host, correlator: Correlator::default(), serial: 0 }
    }

    /// The Event to be written, or to be counted up (see [`count_up`]). `None`: its object has told too much already.
    pub fn tell(
        &mut self,
        about: ObjectReference,
        severity: Severity,
        reason: &str,
        message: &str,
        now: Timestamp,
    ) -> Option<Event> {
        let kind = severity.as_str();
        let uid = about.uid.as_deref().unwrap_or_default();
        let draft = Draft { about: uid, part: about.field_path.as_deref(), kind, reason, message };
        let name = name(&about, now, self.serial);
        self.serial = self.serial.wrapping_add(1);
        let told = self.correlator.tell(&draft, name, now)?;
        // Of what is in no namespace it is told in this one (`makeEvent`).
        let namespace = about.namespace.clone().or(Some("default".to_owned()));
        Some(Event {
            metadata: ObjectMeta { name: Some(told.name), namespace, ..ObjectMeta::default() },
            involved_object: about,
            type_: Some(kind.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(told.message),
            count: Some(told.count),
            first_timestamp: Some(Time(told.first)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some(self.component.to_owned()), host: self.host.clone() }),
            reporting_component: Some(self.component.to_owned()),
            reporting_instance: Some(self.host.clone().unwrap_or_default()),
            ..Event::default()
        })
    }
}

/// The strategic merge patch that counts an Event up which was told before. `None`: it is new, and is to be created.
pub fn count_up(event: &Event) -> Option<Value> {
    let again = event.count > Some(1);
    again.then(|| json!({"count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message}))
}

/// Whether an Event has been kept for long enough. One without any time is kept.
pub fn is_over(event: &Event, now: Timestamp) -> bool {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let micro = event.event_time.as_ref().map(|time| time.0);
    let plain = [&event.last_timestamp, &event.metadata.creation_timestamp];
    let latest = plain.into_iter().flatten().map(|time| time.0).chain(series).chain(micro).max();
    latest.is_some_and(|latest| now.duration_since(latest) >= KEPT)
}

/// The object's name and the time, as `client-go/tools/record` names Events.
fn name(about: &ObjectReference, now: Timestamp, serial: u64) -> String {
    let nanoseconds = u64::try_from(now.as_nanosecond()).unwrap_or(0).wrapping_add(serial);
    format!("{}.{nanoseconds:016x}", about.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    const T0: Timestamp = Timestamp::UNIX_EPOCH;

    fn about(part: &str) -> ObjectReference {
        let text = |text: &str| Some(text.to_owned());
        ObjectReference { name: text("p"), uid: text("u"), field_path: text(part), ..ObjectReference::default() }
    }

    #[test]
    fn an_event_says_who_tells_it_and_where() {
        let mut journal = Journal::new("kubelet", Some("node".to_owned()));
        let event = journal.tell(about("spec.containers{c}"), Severity::Warning, "Failed", "Error: x", T0).unwrap();
        let source = event.source.clone().unwrap();
        assert_eq!((source.component.as_deref(), source.host.as_deref()), (Some("kubelet"), Some("node")));
        assert_eq!(event.reporting_instance.as_deref(), Some("node"));
        assert_eq!(event.metadata.name.as_deref(), Some("p.0000000000000000"));
        assert_eq!(count_up(&event), None);
        let again = journal.tell(about("spec.containers{c}"), Severity::Warning, "Failed", "Error: x", T0).unwrap();
        assert_eq!(again.metadata.name, event.metadata.name);
        assert_eq!(count_up(&again).unwrap()["count"], 2);
    }

    #[test]
    fn an_event_is_over_an_hour_after_it_was_last_told() {
        let time = |minutes: i64| Time(T0 + minutes.minutes());
        let mut event = Event { first_timestamp: Some(time(0)), last_timestamp: Some(time(10)), ..Event::default() };
        let at = |minutes: i64| T0 + minutes.minutes();
        assert!(!is_over(&event, at(69)) && is_over(&event, at(70)));
        event.event_time = Some(MicroTime(at(30)));
        assert!(!is_over(&event, at(89)) && is_over(&event, at(90)));
        assert!(!is_over(&Event::default(), at(1000)), "who knows since when it is there?");
    }
}

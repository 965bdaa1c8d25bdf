//! The columns in which people see objects, and the cells of one object: what `kubectl get` prints.
//!
//! Invariant: a cell follows from the object and the time that is given, and from nothing else.
//! Upstream: `pkg/printers/internalversion/printers.go`, `apimachinery/pkg/util/duration/duration.go`, v1.36.
//! Left out: columns of kinds that are served only as empty collections.

mod batch;
mod docs;
mod objects;
mod pod;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::events::v1 as events;
use k8s_openapi::api::rbac::v1 as rbac;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use serde::{Deserialize, Serialize};

use crate::json;

pub use batch::NEXT;

/// What a column is called and what is in it: a `TableColumnDefinition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// The header.
    pub name: &'static str,
    /// The OpenAPI type of its cells.
    #[serde(rename = "type")]
    pub value: &'static str,
    /// The OpenAPI format, `name` for the object's name.
    pub format: &'static str,
    /// For people.
    pub description: &'static str,
    /// 0 for what is always shown, 1 for what a wide table has.
    pub priority: u8,
}

/// What stands in a cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

/// What is known about a row as a whole: a `TableRowCondition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// `Completed`: the object will not change any more.
    #[serde(rename = "type")]
    pub condition: &'static str,
    /// `True`.
    pub status: &'static str,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: &'static str,
}

/// One object in columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// As many as there are columns.
    pub cells: Vec<Cell>,
    /// Set for objects that have ended.
    pub condition: Option<Condition>,
}

/// How objects of one kind are shown.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// All columns, wide ones included.
    pub columns: &'static [Column],
    row: fn(&[u8], Timestamp) -> serde_json::Result<Row>,
}

impl Layout {
    /// Shows the object in `json` as it is at `now`.
    pub fn row(&self, json: &[u8], now: Timestamp) -> serde_json::Result<Row> {
        (self.row)(json, now)
    }
}

/// The layout whose cells a function makes of an object of a type; its rows have no condition.
macro_rules! layout {
    ($columns:expr, $kind:ty, $cells:expr) => {
        Layout {
            columns: $columns,
            row: |json, now| {
                let object: $kind = json::read(json)?;
                Ok(Row { cells: $cells(&object, now), condition: None })
            },
        }
    };
}

/// How objects of a kind are shown: by name and age, if nothing more is known of the kind.
pub fn layout(group: &str, kind: &str) -> Layout {
    match (group, kind) {
        ("batch", "Job") => layout!(batch::JOB, Job, batch::job),
        ("batch", "CronJob") => layout!(batch::CRON_JOB, CronJob, batch::cron_job),
        ("", "Pod") => {
            Layout { columns: pod::COLUMNS, row: |json, now| json::read(json).map(|pod| pod::row(&pod, now)) }
        }
        ("", "Event") => layout!(objects::EVENT, core::Event, objects::event),
        ("events.k8s.io", "Event") => layout!(objects::EVENT, events::Event, objects::new_event),
        ("", "Namespace") => layout!(objects::NAMESPACE, core::Namespace, objects::namespace),
        ("", "Node") => layout!(objects::NODE, core::Node, objects::node),
        ("", "ConfigMap") => layout!(objects::CONFIG_MAP, core::ConfigMap, objects::config_map),
        ("", "Secret") => layout!(objects::SECRET, core::Secret, objects::secret),
        ("", "Service") => layout!(objects::SERVICE, core::Service, objects::service),
        ("scheduling.k8s.io", "PriorityClass") => {
            layout!(objects::PRIORITY_CLASS, PriorityClass, objects::priority_class)
        }
        ("coordination.k8s.io", "Lease") => layout!(objects::LEASE, Lease, objects::lease),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => layout!(objects::ROLE, AnyObject, objects::role),
        ("rbac.authorization.k8s.io", "RoleBinding") => {
            layout!(objects::ROLE_BINDING, rbac::RoleBinding, objects::role_binding)
        }
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => {
            layout!(objects::CLUSTER_ROLE_BINDING, rbac::ClusterRoleBinding, objects::cluster_role_binding)
        }
        _ => layout!(objects::OTHER, AnyObject, objects::other),
    }
}

/// An object of which only the metadata is looked at.
#[derive(Deserialize)]
struct AnyObject {
    #[serde(default)]
    metadata: ObjectMeta,
}

const fn column(name: &'static str, value: &'static str, description: &'static str) -> Column {
    Column { name, value, format: "", description, priority: 0 }
}

const fn text(name: &'static str, description: &'static str) -> Column {
    column(name, "string", description)
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { priority: 1, ..text(name, description) }
}

const NAME: Column = Column { format: "name", ..text("Name", docs::NAME) };
const AGE: Column = text("Age", docs::CREATED);

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

fn name(meta: &ObjectMeta) -> Cell {
    meta.name.as_deref().unwrap_or_default().into()
}

fn age(meta: &ObjectMeta, now: Timestamp) -> Cell {
    since(meta.creation_timestamp.as_ref().map(|Time(at)| *at), now).into()
}

/// A number of things.
fn count(things: usize) -> Cell {
    Cell::Number(i64::try_from(things).unwrap_or(i64::MAX))
}

/// A text, or `<none>` for an empty one.
fn or_none(text: &str) -> String {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// How long ago `then` was.
fn since(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map_or_else(|| "<unknown>".into(), |then| human_duration(now.duration_since(then)))
}

/// A duration in two units at most, rounded down.
pub fn human_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let pair = |large: i64, unit: &str, small: i64, below: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{below}"),
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    match seconds {
        ..-1 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 3 * 60 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => pair(days, "d", hours % 24, "h"),
        _ if years < 2 => format!("{days}d"),
        _ if years < 8 => pair(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

/// `a=b,c in (d,e),!f` by key, or `<none>`.
fn selector(selector: Option<&LabelSelector>) -> Cell {
    let labels = selector.and_then(|selector| selector.match_labels.as_ref()).into_iter().flatten();
    let mut terms: Vec<(&str, String)> = labels.map(|(key, value)| (key.as_str(), format!("{key}={value}"))).collect();
    for expression in selector.and_then(|selector| selector.match_expressions.as_deref()).unwrap_or_default() {
        let key = expression.key.as_str();
        let mut values = expression.values.clone().unwrap_or_default();
        values.sort_unstable();
        let values = values.join(",");
        let term = match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        terms.push((key, term));
    }
    terms.sort_by_key(|(key, _)| *key);
    let terms: Vec<String> = terms.into_iter().map(|(_, term)| term).collect();
    or_none(&terms.join(",")).into()
}

/// The names and the images of containers.
fn containers(containers: &[core::Container]) -> [Cell; 2] {
    let names: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
    let images: Vec<&str> = containers.iter().map(|container| container.image.as_deref().unwrap_or_default()).collect();
    [names.join(",").into(), images.join(",").into()]
}

#[cfg(test)]
mod tests;

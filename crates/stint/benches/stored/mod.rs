//! Data folders as a daemon would have left them: many objects that were made from one.

use std::path::Path;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::Metadata;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Serialize;
use stint_server::encoding::Encoded;
use stint_server::kinds::Kind;
use stint_store::{Change, Disk, Entry, Revision, SqliteDisk};

/// Objects of a kind in one namespace.
pub const TEAM: usize = 500;

/// From what objects of a kind are made.
pub struct Template {
    prefix: String,
    /// Where it says NUMBER, TEAM, ID or MINUTE, that of the object comes.
    text: String,
    name: &'static str,
}

impl Template {
    fn of<T: Serialize + Metadata<Ty = ObjectMeta>>(kind: (&str, &str), object: &T, name: &'static str) -> Template {
        let prefix = Kind::at(kind.0, "v1", kind.1).expect("it is served").prefix(None);
        let text = String::from_utf8(Encoded::of(object).at(Revision(0)).to_vec()).expect("JSON is text");
        Template { prefix, text, name }
    }
}

/// A finished Job and its pod.
pub fn finished_jobs() -> [Template; 2] {
    let job: Job = serde_json::from_str(include_str!("../objects/job.json")).expect("it is a Job");
    let pod: Pod = serde_json::from_str(include_str!("../objects/pod.json")).expect("it is a Pod");
    [Template::of(("batch", "jobs"), &job, "report-NUMBER"), Template::of(("", "pods"), &pod, "report-NUMBER-sxcqf")]
}

/// A CronJob that was made at `now` and is due in two hours or three.
pub fn cron_jobs(now: Timestamp) -> [Template; 1] {
    let text = include_str!("../objects/cronjob.json");
    let mut cron_job: CronJob = serde_json::from_str(text).expect("it is a CronJob");
    let due = now + SignedDuration::from_hours(3);
    cron_job.spec.schedule = due.strftime("MINUTE %-H * * *").to_string();
    cron_job.metadata.creation_timestamp = Some(Time(now));
    [Template::of(("batch", "cronjobs"), &cron_job, "report-NUMBER")]
}

/// Stores `count` objects of each template in a new data folder; returns how many bytes they have.
pub fn fill(data: &Path, count: usize, templates: &[Template]) -> usize {
    let mut disk = SqliteDisk::open(&data.join("store")).expect("a new data file");
    disk.load().expect("it is empty");
    let (mut batch, mut revision, mut bytes) = (Vec::new(), Revision(0), 0);
    for number in 0..count {
        for template in templates {
            let fill = |text: &str| {
                text.replace("NUMBER", &format!("{number:06}"))
                    .replace("TEAM", &format!("{:03}", number / TEAM))
                    .replace("0000000ID", &format!("{number:09}"))
                    .replace("MINUTE", &(number % 60).to_string())
            };
            revision = revision.next();
            let own = format!(r#""resourceVersion":"{revision}""#);
            let value = fill(&template.text).replacen(r#""resourceVersion":"0""#, &own, 1);
            bytes += value.len();
            let key = format!("{}{}", template.prefix, fill(&format!("team-TEAM/{}", template.name)));
            batch.push(Change::Put(Entry { key: key.into(), revision, value: Bytes::from(value) }));
        }
        if batch.len() >= 5_000 || number + 1 == count {
            disk.commit(&batch, revision).expect("the disk works");
            batch.clear();
        }
    }
    bytes
}

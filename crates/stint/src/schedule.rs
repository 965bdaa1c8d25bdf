//! `stint schedule`: when a schedule fires next, in UTC and on the wall, with what the clocks do to it.
//!
//! Left out: whether a time that is due now has been started yet; `kubectl describe cronjob` tells that.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, anyhow};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::CronJob;
use kube::Api;
use stint_core::cronjob::{latest, missed, zone_of};
use stint_core::schedule::Schedule;
use stint_core::schedule::preview::Row;
use stint_core::schedule::zone::{self, Zone};

use crate::args::ScheduleArgs;
use crate::client::named;
use crate::exit::Exit;
use crate::trigger::name_of;
use crate::zones;

/// Prints what is asked for.
pub fn main(data: &Path, args: &ScheduleArgs) -> anyhow::Result<Exit> {
    zones::settle();
    let now = args.after.unwrap_or_else(Timestamp::now);
    let text = if args.what.contains('/') && !args.what.contains(' ') {
        let cron_job = stored(data, args)?;
        of_cron_job(&cron_job, now, args.count)?
    } else {
        let zone = match &args.tz {
            None => zone::local(),
            Some(name) => zone::named(name).ok_or_else(|| anyhow!("unknown time zone {name}"))?,
        };
        of_schedule(&args.what, &zone, now, args.count)?
    };
    io::stdout().lock().write_all(text.as_bytes()).context("can't print")?;
    Ok(Exit::Done)
}

fn stored(data: &Path, args: &ScheduleArgs) -> anyhow::Result<CronJob> {
    let name = name_of(&args.what)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("can't start the async runtime")?.block_on(async {
        let cron_jobs: Api<CronJob> = Api::namespaced(named(args.kubeconfig.as_ref(), data).await?, &args.namespace);
        cron_jobs.get(name).await.with_context(|| format!("can't read {}", args.what))
    })
}

fn of_schedule(text: &str, zone: &Zone, now: Timestamp, count: usize) -> anyhow::Result<String> {
    let schedule = Schedule::parse(text).map_err(|why| anyhow!("{text:?} is no schedule: {why}"))?;
    let mut out = format!("{}, {}\n", schedule.words(), zone.name());
    for row in schedule.preview(now, zone, count) {
        out.push_str(&line(&row, zone));
    }
    Ok(out)
}

fn of_cron_job(cron_job: &CronJob, now: Timestamp, count: usize) -> anyhow::Result<String> {
    let spec = &cron_job.spec;
    let name = spec.time_zone.as_deref().unwrap_or_default();
    let zone = zone_of(cron_job).ok_or_else(|| anyhow!("unknown time zone {name}"))?;
    let mut out = of_schedule(&spec.schedule, &zone, now, count)?;
    let schedule = Schedule::parse(&spec.schedule).map_err(|why| anyhow!("{:?}: {why}", spec.schedule))?;
    if spec.suspend == Some(true) {
        out.push_str("\nIt is suspended: nothing is started until `spec.suspend` is false.\n");
    }
    out.push_str(match spec.concurrency_policy.as_deref() {
        Some("Forbid") => {
            "\nWhile a Job of it runs no other is started; the last time missed so is made up for when it ends.\n"
        }
        Some("Replace") => "\nA Job that still runs is deleted when the next time comes.\n",
        _ => "\nJobs of it may run side by side.\n",
    });
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    for (what, down) in [("an hour", SignedDuration::from_hours(1)), ("a day", SignedDuration::from_hours(24))] {
        let end = now.saturating_add(down)?;
        let line = match missed(schedule, now, end, &zone) {
            0 => "no time passes".to_owned(),
            times => {
                let first = schedule.next(now, &zone).unwrap_or(end);
                let last = latest(schedule, first, end, &zone);
                let count = if times == 1 { "1 time passes".to_owned() } else { format!("{times} times pass") };
                let is_late = deadline.is_some_and(|deadline| last.saturating_add(deadline).is_ok_and(|at| at < end));
                let after = if is_late {
                    "nothing is made up for, since startingDeadlineSeconds is over"
                } else {
                    "the last one is made up for at once"
                };
                format!("{count}; {after}")
            }
        };
        let _ = writeln!(out, "If the daemon is down for {what} from then on, {line}.");
    }
    Ok(out)
}

fn line(row: &Row, zone: &Zone) -> String {
    match row {
        Row::Fires { at, remark } => {
            let remark = remark.map_or_else(String::new, |remark| format!("  {remark}"));
            format!("{at}  {}{remark}\n", on_the_wall(*at, zone.offset_at(*at)))
        }
        Row::Skipped { at, gap } => {
            let before = zone.offset_at(*at) - gap;
            let (from, to) = (on_the_wall(*at, before), on_the_wall(*at, before + gap));
            format!(
                "{:20}  {} does not fire: the clocks go from {} to {}\n",
                "",
                &from[..14],
                &from[15..20],
                &to[15..20]
            )
        }
    }
}

/// `Sun 2026-03-29 03:00:00 +02:00`.
fn on_the_wall(at: Timestamp, offset: i64) -> String {
    let offset =
        i32::try_from(offset).ok().and_then(|seconds| Offset::from_seconds(seconds).ok()).unwrap_or(Offset::UTC);
    at.to_zoned(offset.to_time_zone()).strftime("%a %Y-%m-%d %H:%M:%S %:z").to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schedule_is_told_with_what_the_clocks_do_to_it() {
        let zone = zone::named("Europe/Berlin").unwrap();
        let told = of_schedule("30 2 * * *", &zone, "2026-03-28T00:00:00Z".parse().unwrap(), 2).unwrap();
        let lines = [
            "every day at 02:30, Europe/Berlin",
            "2026-03-28T01:30:00Z  Sat 2026-03-28 02:30:00 +01:00",
            "                      Sun 2026-03-29 does not fire: the clocks go from 02:00 to 03:00",
            "2026-03-30T00:30:00Z  Mon 2026-03-30 02:30:00 +02:00",
            "",
        ];
        assert_eq!(told, lines.join("\n"));
        let told = of_schedule("30 2 * * *", &zone, "2026-10-25T00:00:00Z".parse().unwrap(), 1).unwrap();
        assert!(told.ends_with("the clocks go back after it: this time comes again\n"), "{told}");
        assert!(of_schedule("x", &zone, Timestamp::UNIX_EPOCH, 1).is_err());
    }

    #[test]
    fn of_a_cron_job_downtime_is_told_too() {
        let cron_job = |deadline: Option<i64>| -> CronJob {
            serde_json::from_value(json!({ "spec": {
                "schedule": "*/30 * * * *", "timeZone": "UTC", "concurrencyPolicy": "Forbid", "suspend": true,
                "startingDeadlineSeconds": deadline, "jobTemplate": {},
            } }))
            .unwrap()
        };
        let now = "2026-06-01T00:10:00Z".parse().unwrap();
        let told = of_cron_job(&cron_job(None), now, 1).unwrap();
        assert!(
            told.contains("for an hour from then on, 2 times pass; the last one is made up for at once."),
            "{told}"
        );
        assert!(told.contains("for a day from then on, 48 times pass;") && told.contains("It is suspended"), "{told}");
        let told = of_cron_job(&cron_job(Some(60)), now, 1).unwrap();
        assert!(told.contains("2 times pass; nothing is made up for"), "{told}");
    }
}

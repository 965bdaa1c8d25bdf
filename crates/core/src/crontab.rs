//! Crontabs become CronJobs: what cron makes of each line, said in Kubernetes' words.
//!
//! ```text
//!   a line ─┬─ NAME=value ───────▶ environment of the lines below it
//!           └─ an entry ─┬─ field: when ───────┐
//!                        ├─ user column: who ──┼─▶ manifest: a CronJob under a name made from its command
//!                        └─ command: what ─────┘
//! ```
//!
//! Invariant: a line becomes a CronJob that fires when cron would and starts what cron would, or it is told by file and
//! line why not and what to do. No text makes this panic, and what comes out is a valid manifest.
//! Upstream: Debian's cron 3.0pl1 (`entry.c`, `env.c`, `do_command.c`, `cron.c`); `CRON_TZ` is cronie's.
//! Left out: opening files and knowing users, which are arguments; anacron's own table.

mod command;
mod environment;
mod field;
mod manifest;
mod name;
#[cfg(test)]
mod tests;

use std::fmt;

use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::manifest::to_yaml;
use crate::schedule::Schedule;
use crate::schedule::preview::Row;
use crate::schedule::zone::{self, Zone};
use command::Command;
use environment::{Environment, Setting};
use field::When;
use name::Names;

/// Bytes of the longest line that is carried over; cron's own limit is 1000.
const LONGEST_LINE: usize = 64 << 10;

/// A crontab.
#[derive(Clone, Copy, Debug)]
pub struct Crontab<'a> {
    /// What its lines are told as: `ORIGIN:LINE`.
    pub origin: &'a str,
    /// What is in it.
    pub text: &'a [u8],
    /// Whose commands they are.
    pub owner: Owner<'a>,
}

/// Whose commands a crontab holds.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// A user's: the user of this name.
    User(&'a str),
    /// The system's, as `/etc/crontab`: each line names its user before the command.
    Column,
}

/// A user of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The name.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The home folder.
    pub home: String,
}

/// The machine whose crontabs they are.
pub struct Machine<'a> {
    /// The name of its time zone, where it has one.
    pub zone: Option<&'a str>,
    /// Its users by name.
    pub account: &'a dyn Fn(&str) -> Option<Account>,
    /// What time it is: what the clocks do is told for a year from here.
    pub now: Timestamp,
}

/// What the user wants of the CronJobs.
#[derive(Clone, Copy, Debug)]
pub struct Wishes<'a> {
    /// The image for clusters that can't give pods the machine's root filesystem.
    pub image: &'a str,
    /// Folders of the machine that commands write to: absolute paths below `/`.
    pub keep: &'a [String],
}

/// What became of crontabs.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// The CronJobs, in the order of the lines.
    pub cron_jobs: Vec<Imported>,
    /// What there is to say about lines, in their order.
    pub remarks: Vec<Remark>,
}

/// A line that became a CronJob.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The name of the CronJob.
    pub name: String,
    /// The CronJob, as JSON.
    pub object: Value,
    place: Place,
    line: String,
}

impl Imported {
    /// The manifest, below a comment that shows the line.
    pub fn yaml(&self) -> String {
        // A comment ends with its line, so nothing that could be taken for the end of one may be in it.
        let is_harmless = |c: &char| *c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric();
        let shown = |text: &str| -> String {
            let blank = |c: char| if c == '\t' { ' ' } else { c };
            text.chars().map(blank).map(|c| if is_harmless(&c) { c } else { '?' }).collect()
        };
        format!("# {}: {}\n{}", shown(&self.place.to_string()), shown(&self.line), to_yaml(&self.object))
    }
}

/// A line of a crontab.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    origin: String,
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.origin, self.line)
    }
}

/// What there is to say about a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    place: Place,
    /// What it is.
    pub what: What,
}

/// Whether a line was carried over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It was not.
    LeftOut(Reason),
    /// It was, and something about it should be known.
    Note(String),
}

impl fmt::Display for Remark {
    /// `FILE:LINE: left out: …` or `FILE:LINE: note: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::LeftOut(reason) => write!(f, "{}: left out: {reason}", self.place),
            What::Note(text) => write!(f, "{}: note: {text}", self.place),
        }
    }
}

/// Why a line can't be carried over, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It is no text.
    #[error("it is not UTF-8, or has a NUL in it: write it in UTF-8")]
    NoText,
    /// It is longer than anything cron takes.
    #[error("it has {0} bytes, and cron takes 1000: put the command into a script")]
    TooLong(usize),
    /// A variable without a value.
    #[error("`{0}=` sets nothing in cron, which takes it for a command: write {0}=\"\"")]
    NoValue(String),
    /// A variable whose name is none in Kubernetes.
    #[error("{0:?} can't be the name of a variable: use printable ASCII; the lines below it run without it")]
    VariableName(String),
    /// Something is missing.
    #[error(
        "its {0} is missing: an entry is `minute hour day month weekday command`, with a user before the command in system crontabs"
    )]
    Missing(&'static str),
    /// Once after every boot.
    #[error(
        "@reboot runs when the machine starts, and a CronJob by the clock: make it a systemd service with \
         `WantedBy=multi-user.target`"
    )]
    Reboot,
    /// A macro that cron does not know.
    #[error("cron does not know @{0}: write five fields, or one of @hourly @daily @weekly @monthly @yearly")]
    Macro(String),
    /// A field that cron refuses.
    #[error("its {field} {text:?} is none: {why}")]
    Field {
        /// Which one.
        field: &'static str,
        /// What stands there.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// Both days restricted, one of them by a step of `*`.
    #[error(
        "cron runs it when day and weekday both fit, since one of them begins with `*`, and a CronJob when either does: \
         let the schedule have one of them, and the command test the other, like `test $(date +\\%u) -eq 1 && …`"
    )]
    BothDays,
    /// A command that begins like a field.
    #[error("its command begins with `*`, which cron refuses: is there a field too many?")]
    SixthField,
    /// The zone does not exist.
    #[error("there is no time zone {0:?}: set CRON_TZ to a name like Europe/Berlin")]
    Zone(String),
    /// The user does not exist.
    #[error("there is no user {0:?} in /etc/passwd: import it where the user is, or write another one")]
    User(String),
}

/// Makes CronJobs of all lines of these crontabs. Names are unique among them.
pub fn import(crontabs: &[Crontab<'_>], machine: &Machine<'_>, wishes: &Wishes<'_>) -> Import {
    let mut importer = Importer { machine, wishes, names: Names::default(), done: Import::default() };
    for crontab in crontabs {
        importer.crontab(crontab);
    }
    importer.done
}

struct Importer<'a> {
    machine: &'a Machine<'a>,
    wishes: &'a Wishes<'a>,
    names: Names,
    done: Import,
}

impl Importer<'_> {
    fn crontab(&mut self, crontab: &Crontab<'_>) {
        let mut environment = Environment::default();
        let mut returns = false;
        let mut lines = crontab.text.split(|byte| *byte == b'\n').enumerate().peekable();
        while let Some((index, bytes)) = lines.next() {
            let place = Place { origin: crontab.origin.to_owned(), line: index + 1 };
            let stripped = bytes.strip_suffix(b"\r");
            let line = match text(stripped.unwrap_or(bytes)) {
                Ok(line) => line.trim_start_matches([' ', '\t']),
                Err(reason) => {
                    self.leave_out(place, reason);
                    continue;
                }
            };
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if stripped.is_some() && !std::mem::replace(&mut returns, true) {
                self.note(
                    &place,
                    "lines end with a carriage return, which cron hands to commands; here it is taken away",
                );
            }
            if lines.peek().is_none() {
                self.note(&place, "cron does not read a last line that no line feed ends; it is carried over");
            }
            match Setting::read(line) {
                Some(Ok(setting)) => {
                    if setting.name == "CRON_TZ" {
                        self.note(
                            &place,
                            "the lines below fire by this zone, as in cronie; Debian's cron ignores CRON_TZ",
                        );
                    }
                    environment.set(setting);
                }
                Some(Err(reason)) => self.leave_out(place, reason),
                None => match self.entry(&place, line, crontab.owner, &environment) {
                    Ok(imported) => self.done.cron_jobs.push(imported),
                    Err(reason) => self.leave_out(place, reason),
                },
            }
        }
    }

    fn entry(
        &mut self,
        place: &Place,
        line: &str,
        owner: Owner<'_>,
        environment: &Environment,
    ) -> Result<Imported, Reason> {
        let (when, rest) = When::read(line)?;
        let (user, command) = match owner {
            Owner::User(user) => (user, rest),
            Owner::Column => rest.split_once([' ', '\t']).ok_or(if rest.is_empty() {
                Reason::Missing("user")
            } else {
                Reason::Missing("command")
            })?,
        };
        let command = command.trim_start_matches([' ', '\t']);
        if command.is_empty() {
            return Err(Reason::Missing("command"));
        }
        if matches!(owner, Owner::User(_)) && command.starts_with('*') {
            return Err(Reason::SixthField);
        }
        let zone = environment.get("CRON_TZ").or(self.machine.zone);
        if let Some(name) = zone.filter(|name| !zone::is_zone(name)) {
            return Err(Reason::Zone(name.to_owned()));
        }
        let account = (self.machine.account)(user).ok_or_else(|| Reason::User(user.to_owned()))?;
        let command = Command::read(command);
        if !when.is_wild
            && let Some(zone) = zone.and_then(zone::named)
        {
            for text in clocks(&when, &zone, self.machine.now) {
                self.note(place, &text);
            }
        }
        let name = self.names.name(&command.line, &[user, &when.schedule, line]);
        let job =
            manifest::CronJob { name: &name, when: &when, zone, account: &account, environment, command: &command };
        let object = job.object(self.wishes);
        Ok(Imported { name, object, place: place.clone(), line: line.to_owned() })
    }

    fn note(&mut self, place: &Place, text: &str) {
        self.done.remarks.push(Remark { place: place.clone(), what: What::Note(text.to_owned()) });
    }

    fn leave_out(&mut self, place: Place, reason: Reason) {
        self.done.remarks.push(Remark { place, what: What::LeftOut(reason) });
    }
}

fn text(bytes: &[u8]) -> Result<&str, Reason> {
    if bytes.len() > LONGEST_LINE {
        return Err(Reason::TooLong(bytes.len()));
    }
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or(Reason::NoText)
}

/// What a year's changes of the clock do to a schedule that cron saves from them: it runs what a gap skips right after
/// it, and what an overlap repeats once, unless minute or hour begins with `*`.
fn clocks(when: &When, zone: &Zone, now: Timestamp) -> Vec<String> {
    const YEAR: i64 = 366 * 24 * 60 * 60;
    let Ok(schedule) = Schedule::parse(&when.schedule) else { return Vec::new() };
    let second = SignedDuration::from_secs(1);
    let changes = zone.changes(now).take_while(|change| change.0.as_second() - now.as_second() < YEAR);
    let told = changes.filter_map(|(at, before, after)| {
        let (words, cron, cron_job) = if after > before {
            let rows = schedule.preview(at - second, zone, 1);
            let skips = rows.iter().any(|row| matches!(row, Row::Skipped { at: skipped, .. } if *skipped == at));
            skips.then_some(("skip", "right after", "not at all"))?
        } else {
            let first = at - SignedDuration::from_secs(before - after);
            schedule.next(first - second, zone).filter(|next| *next < at)?;
            ("repeat", "once", "twice")
        };
        let local = |offset: i64| Some(Offset::from_seconds(i32::try_from(offset).ok()?).ok()?.to_datetime(at));
        let (from, to) = (local(before.min(after))?, local(before.max(after))?);
        Some(format!(
            "on {} the clocks {words} {} to {}: cron runs it {cron}, a CronJob {cron_job}; another hour avoids that",
            from.date(),
            from.strftime("%H:%M"),
            to.strftime("%H:%M"),
        ))
    });
    told.collect()
}

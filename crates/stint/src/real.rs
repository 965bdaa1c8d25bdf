//! The real clock, real randomness and the real log: what everything below the binary takes as arguments.

use std::io::IsTerminal;

use jiff::Timestamp;
use stint_core::clock::Clock;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

use crate::settings::{LogFormat, LogLevel};

/// The machine's wall clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// UIDs and name suffixes from the kernel's random numbers.
#[derive(Clone, Copy, Debug)]
pub struct RandomIds;

/// The characters of generated names: no vowels, so no words (`k8s.io/apimachinery/pkg/util/rand`).
const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

impl stint_server::Ids for RandomIds {
    /// A random UUID (RFC 9562, version 4).
    fn uid(&self) -> String {
        let mut bytes: [u8; 16] = random();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let number = format!("{:032x}", u128::from_be_bytes(bytes));
        [&number[..8], &number[8..12], &number[12..16], &number[16..20], &number[20..]].join("-")
    }

    fn suffix(&self) -> String {
        // 64 bits over 27 letters: the bias of the remainder is far below what anybody could see in a name.
        let mut number = u64::from_ne_bytes(random());
        let letter = |number: &mut u64| {
            let letter = SUFFIX_ALPHABET[usize::try_from(*number % 27).expect("less than 27")];
            *number /= 27;
            char::from(letter)
        };
        (0..5).map(|_| letter(&mut number)).collect()
    }
}

/// A short id for a run.
pub fn run_id() -> String {
    short_id(&format!("run-{}", std::process::id()))
}

/// A short id that begins with `kind`.
pub fn short_id(kind: &str) -> String {
    let number = u64::from_ne_bytes(random());
    format!("{kind}-{:08x}", number & 0xffff_ffff)
}

/// Which boot of the machine this is.
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Random bytes from the kernel.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(filled, Ok(N), "the kernel gives up to 256 random bytes at once, whole");
    bytes
}

/// Sends the log to stderr: warnings, or more with each `-v`.
pub fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
}

/// The daemon's log.
pub struct Log(Box<dyn Fn(Targets) + Send + Sync>);

impl Log {
    /// From now on says this much.
    pub fn set_level(&self, level: LogLevel) {
        (self.0)(targets(level));
    }
}

/// Our own parts say what they are told to; the libraries below them only what is wrong, unless everything is wanted.
fn targets(LogLevel(level): LogLevel) -> Targets {
    let libraries = if level == Level::TRACE { level } else { level.min(Level::WARN) };
    Targets::new().with_target("stint", level).with_default(libraries)
}

/// Sends the daemon's log to stderr.
///
/// # Panics
///
/// When the log was set up before.
pub fn log_to_stderr_as(format: LogFormat, level: LogLevel) -> Log {
    use tracing_subscriber::layer::{Layer, SubscriberExt};
    let (filter, handle) = tracing_subscriber::reload::Layer::new(targets(level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        // Service managers put the time before each line themselves, and colours only help on a terminal.
        LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    tracing::subscriber::set_global_default(subscriber).expect("the log is set up once");
    Log(Box::new(move |targets| {
        // It fails only if the log were gone, which it never is.
        let _ = handle.modify(|filter| *filter = targets);
    }))
}

#[cfg(test)]
mod tests {
    use stint_server::Ids;

    use super::*;

    #[test]
    fn uids_are_version_4_uuids() {
        let uid = RandomIds.uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4");
        assert!("89ab".contains(&uid[19..20]), "{uid}");
        assert_ne!(uid, RandomIds.uid());
    }

    #[test]
    fn suffixes_hold_five_letters_of_the_alphabet() {
        let suffix = RandomIds.suffix();
        assert!(suffix.len() == 5 && suffix.bytes().all(|b| SUFFIX_ALPHABET.contains(&b)), "{suffix}");
    }
}

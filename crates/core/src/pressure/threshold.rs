//! Below which amounts a node is short of something, as settings write them: `memory.available<100Mi,nodefs.available<10%`.
//!
//! Upstream: `pkg/kubelet/eviction/helpers.go` (`ParseThresholdConfig`, `parseThresholdStatement`), v1.36.

use std::fmt;

use jiff::SignedDuration;

use super::signal::{Amount, Signal};
use crate::quantity::{self, Quantity};

/// The hard thresholds, where nothing else is said: the kubelet's, but for disks. A kubelet has its disk to itself and keeps a
/// tenth or more of it free; Stint is a guest on machines whose disks are often fuller than that.
pub const DEFAULT_HARD: &str =
    "memory.available<100Mi,nodefs.available<1Gi,nodefs.inodesFree<5%,imagefs.available<1Gi,imagefs.inodesFree<5%";

/// An amount, or a part of all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// So much.
    Amount(Quantity),
    /// So many millionths of all.
    Millionths(u32),
}

/// For how long a soft threshold may be crossed.
pub type Grace = SignedDuration;

impl Level {
    /// How much that is of what there is.
    pub fn of(self, amount: Amount) -> u64 {
        match self {
            Level::Amount(quantity) => u64::try_from(quantity.value()).unwrap_or(0),
            Level::Millionths(part) => {
                let share = u128::from(amount.capacity) * u128::from(part) / 1_000_000;
                u64::try_from(share).unwrap_or(u64::MAX)
            }
        }
    }

    fn parse(text: &str) -> Result<Level, String> {
        let Some(percent) = text.strip_suffix('%') else {
            let quantity = quantity::parse(text).map_err(|fault| format!("{text:?}: {fault}"))?;
            return if quantity < Quantity::ZERO {
                Err(format!("{text:?} is negative"))
            } else {
                Ok(Level::Amount(quantity))
            };
        };
        let number = quantity::parse(percent).map_err(|_| format!("{text:?} is no percentage"))?;
        let millionths = number.milli() * 10;
        match u32::try_from(millionths) {
            Ok(part @ 0..=1_000_000) => Ok(Level::Millionths(part)),
            _ => Err(format!("{text:?} must be from 0% to 100%")),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Level::Amount(quantity) => write!(f, "{quantity}"),
            Level::Millionths(part) if part % 10_000 == 0 => write!(f, "{}%", part / 10_000),
            Level::Millionths(part) => write!(f, "{}%", f64::from(*part) / 10_000.0),
        }
    }
}

/// Thresholds, one for each signal at most: `memory.available<100Mi`. `none` alone is none.
pub fn levels(texts: &[String]) -> Result<Vec<(Signal, Level)>, String> {
    if texts == ["none"] {
        return Ok(Vec::new());
    }
    let all = each(texts, '<', "memory.available<100Mi", Level::parse)?;
    // Both ends of the scale switch a threshold off, as in a kubelet.
    let is_off = |level: &Level| matches!(level, Level::Millionths(0 | 1_000_000));
    Ok(all.into_iter().filter(|(_, level)| !is_off(level)).collect())
}

/// How much more than its threshold has to be free before a shortage is over: `nodefs.available=1Gi`.
pub fn reclaims(texts: &[String]) -> Result<Vec<(Signal, Level)>, String> {
    each(texts, '=', "nodefs.available=1Gi", Level::parse)
}

/// For how long soft thresholds may be crossed: `memory.available=1m30s`.
pub fn graces(texts: &[String]) -> Result<Vec<(Signal, Grace)>, String> {
    let grace = |text: &str| {
        let parsed: Option<SignedDuration> = text.parse().ok();
        parsed.filter(SignedDuration::is_positive).ok_or_else(|| format!("{text:?} is no time like 90s or 1m30s"))
    };
    each(texts, '=', "memory.available=1m30s", grace)
}

fn each<T>(
    texts: &[String],
    sign: char,
    example: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<(Signal, T)>, String> {
    let mut all: Vec<(Signal, T)> = Vec::new();
    for text in texts {
        let (name, value) = text.split_once(sign).ok_or_else(|| format!("{text:?}: give it like {example}"))?;
        let signal = Signal::ALL.into_iter().find(|signal| signal.name() == name.trim()).ok_or_else(|| {
            let known = Signal::ALL.map(Signal::name).join(", ");
            format!("unknown eviction signal {:?}: give one of {known}", name.trim())
        })?;
        if all.iter().any(|(other, _)| *other == signal) {
            return Err(format!("{} is given twice", signal.name()));
        }
        all.push((signal, read(value.trim())?));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn thresholds_are_read_as_a_kubelet_reads_them() {
        let amount = |text: &str| Level::Amount(quantity::parse(text).unwrap());
        for (text, read) in [
            ("", vec![]),
            ("none", vec![]),
            ("memory.available<100Mi", vec![(Signal::MemoryAvailable, amount("100Mi"))]),
            (
                "nodefs.available<10%,pid.available<1k",
                vec![(Signal::NodefsAvailable, Level::Millionths(100_000)), (Signal::PidAvailable, amount("1000"))],
            ),
            ("nodefs.inodesFree < 0.5%", vec![(Signal::NodefsInodesFree, Level::Millionths(5_000))]),
            ("imagefs.available<0%,imagefs.inodesFree<100%", vec![]),
        ] {
            assert_eq!(levels(&texts(text)), Ok(read), "{text}");
        }
        assert_eq!(levels(&texts(DEFAULT_HARD)).unwrap().len(), 5);
        assert_eq!(
            graces(&texts("memory.available=1m30s")),
            Ok(vec![(Signal::MemoryAvailable, SignedDuration::from_secs(90))])
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_what_would_be_right() {
        for (text, told) in [
            ("memory<1Gi", "memory.available"),
            ("memory.available=1Gi", "memory.available<100Mi"),
            ("memory.available<-1Gi", "negative"),
            ("memory.available<101%", "from 0% to 100%"),
            ("memory.available<x%", "no percentage"),
            ("memory.available<much", "quantities must match"),
            ("pid.available<1,pid.available<2", "twice"),
            ("none,pid.available<1", "give it like"),
        ] {
            let error = levels(&texts(text)).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        assert!(graces(&texts("memory.available=0s")).unwrap_err().contains("90s"));
    }

    #[test]
    fn a_percentage_is_of_what_there_is() {
        let disk = Amount { available: 0, capacity: 1 << 40 };
        assert_eq!(Level::Millionths(150_000).of(disk), (1 << 40) * 15 / 100);
        assert_eq!(Level::Millionths(150_000).to_string(), "15%");
        assert_eq!(Level::Millionths(5_000).to_string(), "0.5%");
    }
}

//! How long a failed pod's replacement waits.
//!
//! Upstream keeps a record in memory (`backoff_utils.go`) that a restart forgets. The finished pods themselves hold the
//! same facts, so that the delay is derived from them: failures since the latest success, counted from the latest one.

use jiff::{SignedDuration, Timestamp};

use super::policy::Judgement;
use super::view::{Class, Seen, View, finished_at};

/// The delays before failed pods are replaced: `base · 2ⁿ⁻¹` after the n-th failure since the latest success, at most `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure. 10 s upstream.
    pub base: SignedDuration,
    /// The longest delay. 10 min upstream.
    pub max: SignedDuration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { base: SignedDuration::from_secs(10), max: SignedDuration::from_secs(600) }
    }
}

impl Backoff {
    /// The delay after `failures` failures in a row.
    pub fn delay(self, failures: u32) -> SignedDuration {
        let Some(doublings) = failures.checked_sub(1) else { return SignedDuration::ZERO };
        let factor = 2_i32.checked_pow(doublings).unwrap_or(i32::MAX);
        self.base.checked_mul(factor).unwrap_or(self.max).min(self.max)
    }

    /// When the next pod may be created, if that lies after `now`; with the failures in a row that it waits for.
    pub(super) fn until(self, view: &View<'_>, now: Timestamp) -> Option<(Timestamp, u32)> {
        let successes = view.class(Class::Succeeded).filter_map(|s| finished_at(s.pod));
        let latest_success = successes.chain(view.latest_success).max();
        let failures: Vec<Timestamp> = failures(view)
            .into_iter()
            .filter_map(|seen| finished_at(seen.pod))
            .filter(|at| latest_success.is_none_or(|success| *at > success))
            .collect();
        let latest = failures.iter().max()?;
        let count = u32::try_from(failures.len()).unwrap_or(u32::MAX);
        let at = latest.saturating_add(self.delay(count)).ok()?;
        (at > now).then_some((at, count))
    }
}

/// The pods that have failed, without those that were sent away: a Job that is resumed, or may have more pods again, waits for
/// none of them.
///
/// While it leaves, a pod that was sent away looks like one that a user has deleted and that was counted: both have lost their
/// finalizer. But the counter holds only the latter. So of those that leave as many have failed as it holds beside the pods
/// that are known to have, those first that were deleted first.
fn failures<'v, 'a>(view: &'v View<'a>) -> Vec<&'v Seen<'a>> {
    let pods = view.pods.iter().filter(|seen| view.counts_as_failed(seen) && view.is_countable(seen));
    let may_be_sent_away = |seen: &&Seen<'_>| !seen.tracked && seen.pod.metadata.deletion_timestamp.is_some();
    let (mut leaving, mut failed): (Vec<&Seen<'_>>, Vec<&Seen<'_>>) = pods.partition(may_be_sent_away);
    if !leaving.is_empty() {
        let known = failed.iter().filter(|seen| seen.judgement != Judgement::Ignore).count();
        let counted = usize::try_from(view.totals().failed).unwrap_or(0);
        leaving.sort_by_key(|seen| finished_at(seen.pod));
        failed.extend(leaving.into_iter().take(counted.saturating_sub(known)));
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_from_the_base_to_the_cap() {
        let delays: Vec<i64> = (0..9).map(|n| Backoff::default().delay(n).as_secs()).collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(Backoff::default().delay(u32::MAX).as_secs(), 600);
    }
}

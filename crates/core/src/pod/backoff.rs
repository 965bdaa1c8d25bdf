//! How long to wait after a failure: the kubelet's delays, doubled each time up to a limit.

use jiff::SignedDuration;

/// A container that ran for this long may crash again as if for the first time.
pub(super) const FORGIVEN_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// For how long a failed pull shows its own reason before it shows the back-off.
pub(super) const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(1);

/// How often a back-off that lasts is told again: a kubelet looks at such a pod after 10 to 15 s (`backOffPeriod`).
pub(super) const TOLD_AGAIN: SignedDuration = SignedDuration::from_secs(12);

/// A delay that doubles with every failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: SignedDuration,
    /// Never more than this.
    pub limit: SignedDuration,
}

impl Backoff {
    /// Between pulls of an image (`images.image_manager.go`, `MaxImageBackOff`).
    pub const PULL: Backoff = Backoff { first: SignedDuration::from_secs(10), limit: SignedDuration::from_secs(300) };
    /// Between restarts of a container (`kubelet.go`, `MaxCrashLoopBackOff`).
    pub const CRASH: Backoff = Backoff::PULL;
    /// Between tries to prepare volumes (`exponential_backoff.go`), and to set up a container that lacks something.
    /// The kubelet waits for its next sync for the latter, 10 s on average; a ConfigMap that appears is seen sooner here.
    pub const SETUP: Backoff =
        Backoff { first: SignedDuration::from_millis(500), limit: SignedDuration::from_secs(10) };

    /// The delay after the `failures`-th failure in a row; none before the first.
    pub fn after(self, failures: u32) -> SignedDuration {
        let Some(doublings) = failures.checked_sub(1) else { return SignedDuration::ZERO };
        let factor = 1_i32.checked_shl(doublings.min(30)).unwrap_or(i32::MAX);
        self.first.checked_mul(factor).unwrap_or(self.limit).min(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit() {
        let seconds: Vec<i64> = (0..9).map(|n| Backoff::CRASH.after(n).as_secs()).collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(Backoff::PULL.after(u32::MAX).as_secs(), 300);
    }
}

//! What goes wrong, and when: crashes at writes, requests that fail or whose answer is lost, slow answers, watches that
//! lag and break. And bugs that can be planted, so that the checks are seen to fail.

use std::time::Duration;

use jiff::SignedDuration;

use crate::rng::Rng;

/// What the disk does with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnWrite {
    /// Performs it.
    Commit,
    /// The process dies, and the write was not performed.
    CrashBefore,
    /// The write is performed, and the process dies before anybody hears of it.
    CrashAfter,
    /// The disk answers an error and refuses whatever comes after; the process lives on for a while.
    Fail {
        /// Whether it performed the write all the same.
        kept: bool,
    },
    /// The disk answers that it performed it, and did not. A planted bug.
    Lie,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRequest {
    /// It is answered.
    Answer,
    /// Somebody else was faster: 409, not performed.
    Conflict,
    /// 500, not performed.
    Refuse,
    /// The connection breaks before it is performed.
    Unreachable,
    /// Performed, and answered by 500.
    PerformThen500,
    /// Performed, and the connection breaks.
    PerformThenLost,
}

/// A bug that is planted between the real parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bug {
    /// None: what runs is what ships.
    #[default]
    None,
    /// Answers to the controllers' writes name revision 1, so that their barrier is always down.
    NoBarrier,
    /// Finalizers go off before the status that records the pods is written.
    ReleaseFirst,
    /// The disk now and then answers that it kept what it did not keep.
    LyingDisk,
    /// After a restart the node has forgotten which containers it started.
    ForgetfulNode,
    /// A request to create a pod is performed twice.
    CreateTwice,
    /// Jobs of CronJobs get a name of their own for each attempt.
    AnyName,
}

impl Bug {
    /// Every bug that can be planted.
    pub const ALL: [Bug; 6] =
        [Bug::NoBarrier, Bug::ReleaseFirst, Bug::LyingDisk, Bug::ForgetfulNode, Bug::CreateTwice, Bug::AnyName];
}

/// How often things go wrong, each of a thousand.
#[derive(Clone, Debug)]
pub struct Rates {
    conflict: u64,
    refuse: u64,
    lose: u64,
    break_watch: u64,
    /// The longest latency of a request, in milliseconds, each way.
    latency: u64,
    /// The longest lag of a watch's event, in milliseconds.
    lag: u64,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub struct Chaos {
    chance: Rng,
    rates: Rates,
    /// Crashes and failures of the disk that are still to come.
    disasters_left: u64,
    /// The longest way to the next one, in writes.
    gap: u64,
    next: Option<(u64, OnWrite)>,
    on: bool,
    /// The planted bug.
    pub bug: Bug,
    /// How long the controllers let events gather, as they may be told to.
    pub gather: SignedDuration,
}

impl Chaos {
    /// The chaos of a seed.
    pub fn of_seed(seed: u64, bug: Bug) -> Chaos {
        let mut rng = Rng::new(seed, 2);
        let level = rng.range(0, 3);
        let rate = |rng: &mut Rng, most: u64| if level == 0 { 0 } else { rng.range(0, most * level) };
        let rates = Rates {
            conflict: rate(&mut rng, 30),
            refuse: rate(&mut rng, 20),
            lose: rate(&mut rng, 30),
            break_watch: rate(&mut rng, 20),
            latency: *rng.pick(&[0, 2, 20, 200]),
            lag: *rng.pick(&[0, 5, 100, 2000, 10_000]),
        };
        let disasters_left = *rng.pick(&[0, 0, 1, 2, 4, 8]);
        let gap = *rng.pick(&[5, 20, 60]);
        let gather = SignedDuration::from_secs(i64::from(Rng::new(seed, 6).chance(250)));
        let mut chaos = Chaos { chance: rng, rates, disasters_left, gap, next: None, on: true, bug, gather };
        chaos.plan(0);
        chaos
    }

    /// Nothing goes wrong but, if wanted, one thing at one write.
    pub fn only(at: Option<(u64, OnWrite)>) -> Chaos {
        let rates = Rates { conflict: 0, refuse: 0, lose: 0, break_watch: 0, latency: 0, lag: 0 };
        let (chance, gather) = (Rng::new(0, 2), SignedDuration::ZERO);
        Chaos { chance, rates, disasters_left: 0, gap: 1, next: at, on: true, bug: Bug::None, gather }
    }

    /// From now on nothing goes wrong any more.
    pub fn ends(&mut self) {
        self.on = false;
    }

    fn plan(&mut self, write: u64) {
        self.next = (self.disasters_left > 0).then(|| {
            self.disasters_left -= 1;
            let what = match self.chance.range(0, 9) {
                0..=4 => OnWrite::CrashBefore,
                5..=8 => OnWrite::CrashAfter,
                _ => OnWrite::Fail { kept: self.chance.chance(500) },
            };
            (write + self.chance.range(1, self.gap), what)
        });
    }

    /// What the disk does with its write number `write`.
    pub fn on_write(&mut self, write: u64) -> OnWrite {
        if !self.on {
            return OnWrite::Commit;
        }
        if let Some((at, what)) = self.next
            && write >= at
        {
            self.plan(write);
            return what;
        }
        if self.bug == Bug::LyingDisk && self.chance.chance(40) { OnWrite::Lie } else { OnWrite::Commit }
    }

    /// What becomes of a request; `may_conflict` says whether the API can answer 409 to it.
    pub fn on_request(&mut self, may_conflict: bool) -> OnRequest {
        if !self.on {
            return OnRequest::Answer;
        }
        if may_conflict && self.chance.chance(self.rates.conflict) {
            return OnRequest::Conflict;
        }
        if self.chance.chance(self.rates.refuse) {
            return if self.chance.chance(500) { OnRequest::Refuse } else { OnRequest::Unreachable };
        }
        if self.chance.chance(self.rates.lose) {
            return if self.chance.chance(500) { OnRequest::PerformThen500 } else { OnRequest::PerformThenLost };
        }
        OnRequest::Answer
    }

    /// How long a request takes to arrive, or its answer.
    pub fn latency(&mut self) -> Duration {
        self.up_to(self.rates.latency)
    }

    /// How long an event of a watch is under way.
    pub fn lag(&mut self) -> Duration {
        if self.chance.chance(300) { self.up_to(self.rates.lag) } else { Duration::ZERO }
    }

    /// Whether a watch breaks before its next event.
    pub fn breaks_watch(&mut self) -> bool {
        self.on && self.chance.chance(self.rates.break_watch)
    }

    /// How long the process stays away after a crash.
    pub fn downtime(&mut self) -> Duration {
        Duration::from_millis(*self.chance.pick(&[0, 10, 1000, 60_000]))
    }

    /// How many events a store remembers.
    pub fn history_events(&mut self) -> usize {
        *self.chance.pick(&[4, 32, 8192])
    }

    /// How long a process lives on after its disk failed.
    pub fn agony(&mut self) -> Duration {
        Duration::from_millis(self.chance.range(1, 5000))
    }

    fn up_to(&mut self, most: u64) -> Duration {
        if self.on && most > 0 { Duration::from_millis(self.chance.range(0, most)) } else { Duration::ZERO }
    }
}

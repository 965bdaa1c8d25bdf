//! Which of several replicas leads, by a Lease (`coordination.k8s.io/v1`), as client-go elects.
//!
//! ```text
//!                      its record has not changed for as long as it says, or nobody holds it: take it
//!   FOLLOWS ◄──────────────────────────────────────────────────────────────────────────────────────► LEADS
//!      it is another's, or the last renewal began longer ago than `renew_within`
//! ```
//!
//! Invariant: at no moment do two lead, whatever their clocks show. Times that others wrote are compared with nothing: a
//! follower counts how long it has itself seen the record stay the same, and a leader how long ago its renewal began.
//! Where clocks step or a machine sleeps, a follower believes the shorter time and a leader the longer.
//! Upstream: `client-go/tools/leaderelection/leaderelection.go`, v1.36, whose leader believes its monotonic clock alone.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// A moment, by the two clocks of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time since the process began, by a clock that nobody sets and that may stand still while the machine sleeps.
    pub steady: Duration,
    /// The wall clock, which goes on but may be set.
    pub wall: Timestamp,
}

impl Moment {
    /// How much time has surely gone by since `earlier`.
    pub fn surely_since(self, earlier: Moment) -> Duration {
        self.steady.saturating_sub(earlier.steady)
    }

    /// How much time may have gone by since `earlier`.
    pub fn perhaps_since(self, earlier: Moment) -> Duration {
        let by_wall = Duration::try_from(self.wall.duration_since(earlier.wall)).unwrap_or_default();
        self.surely_since(earlier).max(by_wall)
    }
}

/// How leading is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// For how long others leave a record alone that does not change; whole seconds.
    pub duration: Duration,
    /// For how long a leader leads after the begin of its last renewal; less than `duration`.
    pub renew_within: Duration,
    /// How often everybody looks.
    pub retry: Duration,
}

impl Terms {
    /// Terms in upstream's proportions, which are 15, 10 and 2 s.
    pub fn of(duration: Duration) -> Terms {
        Terms { duration, renew_within: duration * 2 / 3, retry: duration * 2 / 15 }
    }
}

/// One replica, as it sees the lease.
#[derive(Clone, Debug)]
pub struct Candidate {
    name: String,
    terms: Terms,
    /// The record, and when it was first seen so.
    seen: Option<(LeaseSpec, Moment)>,
    /// When the last renewal began that went through.
    renewed: Option<Moment>,
}

/// What a candidate does about the lease.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// Create it with this record.
    Create(LeaseSpec),
    /// Make this its record, if it is still as it was seen.
    Write(LeaseSpec),
    /// Nothing: this one holds it.
    Wait(String),
}

impl Candidate {
    /// One of this name, which no other has.
    pub fn new(name: String, terms: Terms) -> Candidate {
        Candidate { name, terms, seen: None, renewed: None }
    }

    /// Decides about the lease as the API has it at the moment `now`.
    pub fn decide(&mut self, lease: Option<&Lease>, now: Moment) -> Move {
        let record = lease.map(|lease| lease.spec.clone().unwrap_or_default());
        if self.seen.as_ref().map(|(seen, _)| seen) != record.as_ref() {
            self.seen = record.map(|record| (record, now));
        }
        let Some((record, since)) = &self.seen else {
            self.renewed = None;
            return Move::Create(self.record(None, now));
        };
        let holder = record.holder_identity.as_deref().unwrap_or_default();
        if holder != self.name {
            self.renewed = None;
            let seconds = u64::try_from(record.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
            if !holder.is_empty() && now.surely_since(*since) < Duration::from_secs(seconds) {
                return Move::Wait(holder.to_owned());
            }
        }
        Move::Write(self.record(Some(record), now))
    }

    /// A write that began at the moment `began` has gone through.
    pub fn wrote(&mut self, began: Moment) {
        self.renewed = Some(began);
    }

    /// For how long it still leads at the moment `now`; `None` if it does not.
    pub fn leads_for(&self, now: Moment) -> Option<Duration> {
        let gone = now.perhaps_since(self.renewed?);
        self.terms.renew_within.checked_sub(gone).filter(|left| !left.is_zero())
    }

    /// The record by which it lets go of `lease`, if that is its own: others need not wait.
    pub fn resign(&self, lease: &Lease, now: Moment) -> Option<LeaseSpec> {
        let record = lease.spec.as_ref().filter(|spec| spec.holder_identity.as_deref() == Some(&self.name))?;
        let at = Some(MicroTime(now.wall));
        Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: at.clone(),
            renew_time: at,
            ..record.clone()
        })
    }

    /// Its own record, after `before`.
    fn record(&self, before: Option<&LeaseSpec>, now: Moment) -> LeaseSpec {
        let at = Some(MicroTime(now.wall));
        let before = before.cloned().unwrap_or_default();
        let is_own = before.holder_identity.as_ref() == Some(&self.name);
        let transitions = before.lease_transitions.unwrap_or(0);
        let had_holder = before.holder_identity.is_some();
        LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: Some(i32::try_from(self.terms.duration.as_secs()).unwrap_or(i32::MAX).max(1)),
            acquire_time: if is_own { before.acquire_time.clone() } else { at.clone() },
            renew_time: at,
            lease_transitions: Some(transitions + i32::from(had_holder && !is_own)),
            ..before
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TERMS: Terms = Terms {
        duration: Duration::from_secs(15),
        renew_within: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };

    fn at(seconds: u64) -> Moment {
        let wall = Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap();
        Moment { steady: Duration::from_secs(seconds), wall }
    }

    fn lease(spec: LeaseSpec) -> Lease {
        Lease { spec: Some(spec), ..Lease::default() }
    }

    /// Looks once; what is written goes through.
    fn look(candidate: &mut Candidate, held: &mut Option<Lease>, now: Moment) -> Move {
        let decided = candidate.decide(held.as_ref(), now);
        if let Move::Create(record) | Move::Write(record) = &decided {
            *held = Some(lease(record.clone()));
            candidate.wrote(now);
        }
        decided
    }

    #[test]
    fn a_lease_is_taken_when_its_record_has_stayed_the_same_for_its_duration() {
        let (mut a, mut b) = (Candidate::new("a".to_owned(), TERMS), Candidate::new("b".to_owned(), TERMS));
        let mut held = None;
        assert!(matches!(look(&mut a, &mut held, at(0)), Move::Create(_)));
        assert_eq!(look(&mut b, &mut held, at(14)), Move::Wait("a".to_owned()));
        look(&mut a, &mut held, at(9));
        assert_eq!(look(&mut b, &mut held, at(20)), Move::Wait("a".to_owned()), "it was renewed");
        assert_eq!(look(&mut b, &mut held, at(34)), Move::Wait("a".to_owned()));
        assert!(matches!(look(&mut b, &mut held, at(35)), Move::Write(_)));
        let record = held.as_ref().unwrap().spec.clone().unwrap();
        assert_eq!((record.holder_identity.as_deref(), record.lease_transitions), (Some("b"), Some(1)));
        assert_eq!(look(&mut a, &mut held, at(36)), Move::Wait("b".to_owned()));
        assert_eq!((a.leads_for(at(36)), b.leads_for(at(36))), (None, Some(Duration::from_secs(9))));
    }

    #[test]
    fn who_resigns_is_followed_at_once_and_what_others_keep_in_the_lease_stays() {
        let (mut a, mut b) = (Candidate::new("a".to_owned(), TERMS), Candidate::new("b".to_owned(), TERMS));
        let mut held = Some(lease(LeaseSpec { strategy: Some("x".to_owned()), ..LeaseSpec::default() }));
        look(&mut a, &mut held, at(0));
        look(&mut b, &mut held, at(1));
        assert_eq!(b.resign(held.as_ref().unwrap(), at(1)), None, "it is not its own");
        held = a.resign(held.as_ref().unwrap(), at(1)).map(lease);
        assert!(matches!(look(&mut b, &mut held, at(2)), Move::Write(_)));
        assert_eq!(held.unwrap().spec.unwrap().strategy.as_deref(), Some("x"));
    }

    #[test]
    fn a_leader_believes_the_longer_time_and_a_follower_the_shorter() {
        let asleep = |moment: Moment, seconds: u64| Moment { wall: at(seconds).wall, ..moment };
        let mut a = Candidate::new("a".to_owned(), TERMS);
        a.wrote(at(0));
        assert!(a.leads_for(at(9)).is_some());
        assert_eq!(a.leads_for(asleep(at(1), 3600)), None, "the machine has slept for an hour");
        let (mut b, mut held) = (Candidate::new("b".to_owned(), TERMS), None);
        look(&mut a, &mut held, at(0));
        b.decide(held.as_ref(), at(0));
        assert!(matches!(b.decide(held.as_ref(), asleep(at(1), 3600)), Move::Wait(_)), "its clock was set");
    }

    /// What a replica has begun and not sent: what it had read, when, and when it goes out.
    struct Pending {
        read: Option<Lease>,
        begun: Move,
        began: Moment,
        due: u64,
    }

    proptest! {
        /// Three replicas whose wall clocks differ and jump, who look when they like and are paused between what they read and
        /// what they write. Their writes are guarded by the record that they have read.
        #[test]
        fn no_two_lead_at_the_same_moment(
            steps in prop::collection::vec((0_usize..3, 0_u64..20, -100_i64..100, 0_u64..15), 1..200),
        ) {
            let mut candidates: Vec<Candidate> =
                ["a", "b", "c"].map(|name| Candidate::new(name.to_owned(), TERMS)).into();
            let mut skews = [0_i64; 3];
            let mut pending: [Option<Pending>; 3] = [None, None, None];
            let (mut held, mut now) = (None::<Lease>, 1000_u64);
            for (who, pass, skew, pause) in steps {
                now += pass;
                let moment = |seconds: u64, skew: i64| {
                    Moment { wall: Timestamp::from_second(10_000 + skew).unwrap() + Duration::from_secs(seconds), ..at(seconds) }
                };
                if skew % 7 == 0 { skews[who] = skew; }
                if let Some(Pending { read, begun, began, due }) = pending[who].take() {
                    if due > now {
                        pending[who] = Some(Pending { read, begun, began, due });
                    } else if read == held && let Move::Create(record) | Move::Write(record) = begun {
                        held = Some(lease(record));
                        candidates[who].wrote(began);
                    }
                } else {
                    let began = moment(now, skews[who]);
                    let decided = candidates[who].decide(held.as_ref(), began);
                    pending[who] = Some(Pending { read: held.clone(), begun: decided, began, due: now + pause });
                }
                let leads = |(at, candidate): (usize, &Candidate)| candidate.leads_for(moment(now, skews[at])).is_some();
                let leaders = candidates.iter().enumerate().filter(|(at, it)| leads((*at, it))).count();
                prop_assert!(leaders <= 1, "{leaders} lead at {now}");
            }
        }
    }
}

//! All pods that wait for the node or take room on it. Pure: what was seen, and the time, are arguments.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};

use super::claims::{Claims, Refusal};
use super::group::{Group, Key, Turn};
use super::neighbours::{Neighbours, Quarrel, attraction};
use super::place::Place;
use super::room::Room;
use super::spread::Uneven;
use super::wish::{Identity, Wish, amounts};
use super::{Standing, standing};
use crate::plan::Uid;
use crate::storage::{ClaimKey, key};

/// How long a pod that does not fit may find room before that is told. Where pods come and go it mostly does, and the two
/// writes are spared.
const PATIENCE: SignedDuration = SignedDuration::from_millis(500);

/// A pod, for whoever writes to the API about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.uid`.
    pub uid: Uid,
    /// Whether it was told before that it did not fit.
    pub had_waited: bool,
}

#[derive(Debug)]
struct Entry {
    seat: Seat,
    wish: Arc<Wish>,
    identity: Identity,
    turn: Turn,
    state: State,
    /// What it was told.
    told: Option<Arc<str>>,
    /// Since when it has something to be told.
    since: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// It waits in this group.
    Waiting(Key),
    /// It was handed out to be bound, and may be.
    Reserved,
    /// It is known to be bound.
    Assigned,
    /// Binding it was refused; it waits to be seen again.
    Refused,
}

/// The scheduler.
#[derive(Debug, Default)]
pub struct Scheduler {
    name: String,
    place: Option<Place>,
    room: Room,
    neighbours: Neighbours,
    claims: Claims,
    pods: HashMap<Uid, Entry>,
    groups: BTreeMap<Key, Group>,
    /// The groups that may have a pod that fits, by whose turn is first.
    open: BTreeSet<(Turn, Key)>,
    untold: BTreeSet<(Timestamp, Uid)>,
    arrivals: u64,
}

/// Why a pod does not fit.
struct Misfit {
    message: Arc<str>,
    /// Whether that is so of this pod only, and not of all that wish for the same.
    is_its_own: bool,
}

impl Scheduler {
    /// A scheduler for the node of this name, of which nothing is known yet.
    pub fn new(node: &str) -> Scheduler {
        Scheduler { name: node.to_owned(), ..Scheduler::default() }
    }

    /// The node is so now, or gone.
    pub fn node(&mut self, node: Option<&Node>) {
        let place = node.map(|node| {
            let spec = node.spec.clone().unwrap_or_default();
            Place {
                name: self.name.clone(),
                labels: node.metadata.labels.clone().unwrap_or_default(),
                taints: spec.taints.unwrap_or_default(),
                is_unschedulable: spec.unschedulable == Some(true),
            }
        });
        let allocatable = node.and_then(|node| node.status.as_ref()?.allocatable.as_ref());
        let allocatable = allocatable.map(amounts).unwrap_or_default();
        if (&place, &allocatable) != (&self.place, &self.room.allocatable) {
            self.place = place;
            self.room.allocatable = allocatable;
            self.reopen(|_| true);
        }
    }

    /// A claim is so now.
    pub fn claim(&mut self, claim: &PersistentVolumeClaim) {
        if self.claims.see(claim) {
            let key = key(claim);
            self.reopen(|wish| wish.claims.iter().any(|wanted| wanted.key == key));
        }
    }

    /// A claim is gone.
    pub fn claim_gone(&mut self, key: &ClaimKey) {
        self.claims.gone(key);
        self.reopen(|wish| wish.claims.iter().any(|wanted| wanted.key == *key));
    }

    /// Only these claims are there.
    pub fn retain_claims(&mut self, there: &BTreeSet<ClaimKey>) {
        let gone: Vec<ClaimKey> = self.claims.keys().filter(|key| !there.contains(*key)).cloned().collect();
        for key in &gone {
            self.claim_gone(key);
        }
    }

    /// A pod is so now.
    pub fn see(&mut self, pod: &Pod, now: Timestamp) {
        let uid = Uid::of(&pod.metadata);
        match standing(pod) {
            Standing::Assigned(node) if node == self.name => self.assign(&uid, pod),
            Standing::Waits => self.wait(&uid, pod, now),
            // As long as its binding may be under way, what is seen may be from before it.
            Standing::Leaves if self.is_reserved(&uid) => {}
            Standing::Assigned(_) | Standing::Leaves | Standing::Leave(_) => self.gone(&uid),
        }
    }

    /// A pod is gone, or over.
    pub fn gone(&mut self, uid: &Uid) {
        let Some(entry) = self.pods.remove(uid) else { return };
        self.hush(uid, entry.since);
        match entry.state {
            State::Waiting(key) => self.leave(&key, entry.turn),
            State::Reserved | State::Assigned => self.free(uid, &entry.wish),
            State::Refused => {}
        }
    }

    /// Only these pods are there.
    pub fn retain(&mut self, there: &HashSet<Uid>) {
        let gone: BTreeSet<Uid> = self.pods.keys().filter(|uid| !there.contains(uid)).cloned().collect();
        for uid in &gone {
            self.gone(uid);
        }
    }

    /// The next pod that is to be bound. Its room is taken until it is gone, or [`Scheduler::refused`].
    pub fn next(&mut self, now: Timestamp) -> Option<Seat> {
        while let Some((turn, key)) = self.open.pop_first() {
            let group = &self.groups[&key];
            let uid = group.members[&turn].clone();
            let Some(misfit) = self.misfit(&self.pods[&uid]) else {
                self.leave(&key, turn);
                return Some(self.reserve(&uid));
            };
            let alone = Key::Alone(uid.clone());
            if misfit.is_its_own && key != alone {
                self.leave(&key, turn);
                self.join(&uid, &alone);
                self.stick(&alone, &misfit.message, now);
            } else {
                self.stick(&key, &misfit.message, now);
            }
        }
        None
    }

    /// A pod that is to be told that it does not fit, and why; once for each message. Ask when there is no [`Scheduler::next`].
    pub fn tell(&mut self, now: Timestamp) -> Option<(Seat, Arc<str>)> {
        while let Some((since, uid)) = self.untold.first().cloned().filter(|(since, _)| is_due(*since, now)) {
            self.untold.remove(&(since, uid.clone()));
            let Some(entry) = self.pods.get_mut(&uid) else { continue };
            entry.since = None;
            let State::Waiting(key) = &entry.state else { continue };
            let message = self.groups[key].stuck.clone();
            if message.is_some() && message != entry.told {
                let seat = entry.seat.clone();
                entry.told.clone_from(&message);
                entry.seat.had_waited = true;
                return message.map(|message| (seat, message));
            }
        }
        None
    }

    /// When the next pod is to be told something.
    pub fn wake(&self) -> Option<Timestamp> {
        self.untold.first().map(|(since, _)| since.saturating_add(PATIENCE).unwrap_or(Timestamp::MAX))
    }

    /// A pod could not be told.
    pub fn was_not_told(&mut self, uid: &Uid, now: Timestamp) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.told = None;
            self.speak_to(uid, now);
        }
    }

    /// Binding a pod was refused for good: it is left alone until it is seen again.
    pub fn refused(&mut self, uid: &Uid) {
        let Some(entry) = self.pods.get_mut(uid).filter(|entry| entry.state == State::Reserved) else { return };
        entry.state = State::Refused;
        let wish = entry.wish.clone();
        self.free(uid, &wish);
    }

    fn is_reserved(&self, uid: &Uid) -> bool {
        self.pods.get(uid).is_some_and(|entry| entry.state == State::Reserved)
    }

    fn assign(&mut self, uid: &Uid, pod: &Pod) {
        let wish = Wish::of(pod);
        let known = self.pods.get_mut(uid);
        if let Some(entry) = known.filter(|it| matches!(it.state, State::Reserved | State::Assigned))
            && *entry.wish == wish
            && entry.identity == Identity::of(pod)
        {
            entry.state = State::Assigned;
            return;
        }
        self.gone(uid);
        let entry = self.entry(pod, Arc::new(wish), State::Assigned);
        self.room.take(&entry.wish);
        self.claims.take(&entry.wish);
        self.neighbours.put(uid.clone(), entry.identity.clone(), &entry.wish);
        self.pods.insert(uid.clone(), entry);
        self.reopen(|wish| !attraction(wish.affinity.as_ref()).is_empty());
    }

    fn wait(&mut self, uid: &Uid, pod: &Pod, now: Timestamp) {
        let wish = Wish::of(pod);
        let told = told(pod);
        match self.pods.get_mut(uid) {
            Some(entry) if matches!(entry.state, State::Reserved) => return,
            Some(entry) if *entry.wish == wish && matches!(entry.state, State::Waiting(_)) => {
                entry.identity = Identity::of(pod);
                return;
            }
            _ => self.gone(uid),
        }
        let key = Key::Wish(wish.key());
        let wish = self.groups.get(&key).map_or_else(|| Arc::new(wish), |group| group.wish.clone());
        let entry = self.entry(pod, wish, State::Refused);
        self.pods.insert(uid.clone(), Entry { told, ..entry });
        self.join(uid, &key);
        self.speak_to(uid, now);
    }

    fn entry(&mut self, pod: &Pod, wish: Arc<Wish>, state: State) -> Entry {
        self.arrivals += 1;
        let meta = &pod.metadata;
        let text = |text: &Option<String>| Arc::from(text.as_deref().unwrap_or_default());
        let seat = Seat {
            namespace: text(&meta.namespace),
            name: text(&meta.name),
            uid: Uid::of(meta),
            had_waited: told(pod).is_some(),
        };
        let turn = Turn {
            priority: Reverse(pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)),
            created: meta.creation_timestamp.as_ref().map_or(Timestamp::MAX, |created| created.0),
            arrival: self.arrivals,
        };
        Entry { seat, wish, identity: Identity::of(pod), turn, state, told: None, since: None }
    }

    fn join(&mut self, uid: &Uid, key: &Key) {
        let entry = self.pods.get_mut(uid).expect("the caller has put it there");
        entry.state = State::Waiting(key.clone());
        let group = self.groups.entry(key.clone()).or_insert_with(|| Group::new(entry.wish.clone()));
        let before = group.first();
        group.members.insert(entry.turn, uid.clone());
        if group.stuck.is_none() {
            self.move_up(key, before);
        }
    }

    fn leave(&mut self, key: &Key, turn: Turn) {
        let Some(group) = self.groups.get_mut(key) else { return };
        let before = group.first();
        group.members.remove(&turn);
        let (is_stuck, is_empty) = (group.stuck.is_some(), group.members.is_empty());
        if !is_stuck {
            self.move_up(key, before);
        }
        if is_empty {
            self.groups.remove(key);
        }
    }

    /// Puts an open group where whose turn is first in it belongs; before that it was where `before` says, if there.
    fn move_up(&mut self, key: &Key, before: Option<Turn>) {
        if let Some(before) = before {
            self.open.remove(&(before, key.clone()));
        }
        if let Some(first) = self.groups[key].first() {
            self.open.insert((first, key.clone()));
        }
    }

    fn reserve(&mut self, uid: &Uid) -> Seat {
        let entry = self.pods.get_mut(uid).expect("a member of a group is there");
        entry.state = State::Reserved;
        let (seat, wish, since) = (entry.seat.clone(), entry.wish.clone(), entry.since.take());
        self.neighbours.put(uid.clone(), entry.identity.clone(), &wish);
        self.hush(uid, since);
        self.room.take(&wish);
        self.claims.take(&wish);
        self.reopen(|wish| !attraction(wish.affinity.as_ref()).is_empty());
        seat
    }

    fn free(&mut self, uid: &Uid, wish: &Wish) {
        self.room.give_back(wish);
        self.claims.give_back(wish);
        self.neighbours.remove(uid);
        self.reopen(|_| true);
    }

    /// Groups of such wishes may have a pod that fits.
    fn reopen(&mut self, concerns: impl Fn(&Wish) -> bool) {
        for (key, group) in &mut self.groups {
            if let Some(first) = group.first()
                && concerns(&group.wish)
                && self.open.insert((first, key.clone()))
            {
                group.stuck = None;
            }
        }
    }

    fn stick(&mut self, key: &Key, message: &Arc<str>, now: Timestamp) {
        let group = self.groups.get_mut(key).expect("the caller has looked");
        if let Some(first) = group.first() {
            self.open.remove(&(first, key.clone()));
        }
        group.stuck = Some(message.clone());
        let news: Vec<Uid> =
            group.members.values().filter(|uid| self.pods[*uid].told.as_ref() != Some(message)).cloned().collect();
        for uid in &news {
            self.speak_to(uid, now);
        }
    }

    /// It has something to be told, from now on or from before.
    fn speak_to(&mut self, uid: &Uid, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let since = *entry.since.get_or_insert(now);
        self.untold.insert((since, uid.clone()));
    }

    fn hush(&mut self, uid: &Uid, since: Option<Timestamp>) {
        if let Some(since) = since {
            self.untold.remove(&(since, uid.clone()));
        }
    }

    fn misfit(&self, entry: &Entry) -> Option<Misfit> {
        let wish = &entry.wish;
        let Some(place) = &self.place else {
            return Some(Misfit { message: "no nodes available to schedule pods".into(), is_its_own: false });
        };
        let refusal = self.claims.refuse(wish);
        if let Some(Refusal::Everywhere(why)) = refusal {
            let preemption = preemption(wish, true);
            let message =
                format!("0/1 nodes are available: {why}. no new claims to deallocate, preemption: {preemption}");
            return Some(Misfit { message: message.into(), is_its_own: false });
        }
        let (mut reasons, is_hopeless, is_its_own) = if let Some(reason) = place.refuses(wish) {
            (vec![reason.to_owned()], true, false)
        } else if let Some(lack) = self.room.lacks(wish) {
            (lack.reasons, lack.is_hopeless, false)
        } else if let Some(Refusal::Here(why)) = refusal {
            (vec![why.to_owned()], false, false)
        } else {
            let quarrel = self.neighbours.quarrel(wish, &entry.identity, &place.labels)?;
            let reason = match quarrel {
                Quarrel::Uneven(Uneven::Nowhere) => {
                    "node(s) didn't match pod topology spread constraints (missing required label)"
                }
                Quarrel::Uneven(Uneven::Crowded) => "node(s) didn't match pod topology spread constraints",
                Quarrel::Lonely => "node(s) didn't match pod affinity rules",
                Quarrel::Avoids => "node(s) didn't match pod anti-affinity rules",
                Quarrel::Avoided => "node(s) didn't satisfy existing pods anti-affinity rules",
            };
            let is_hopeless = matches!(quarrel, Quarrel::Lonely | Quarrel::Uneven(Uneven::Nowhere));
            (vec![reason.to_owned()], is_hopeless, quarrel == Quarrel::Avoided)
        };
        reasons.sort();
        let reasons: Vec<String> = reasons.iter().map(|reason| format!("1 {reason}")).collect();
        let preemption = preemption(wish, is_hopeless);
        let reasons = reasons.join(", ");
        let message =
            format!("0/1 nodes are available: {reasons}. no new claims to deallocate, preemption: {preemption}");
        Some(Misfit { message: message.into(), is_its_own })
    }
}

/// Why nobody is pushed away for it.
fn preemption(wish: &Wish, is_hopeless: bool) -> &'static str {
    match (wish.is_polite, is_hopeless) {
        (true, _) => "not eligible due to preemptionPolicy=Never.",
        (false, true) => "0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        (false, false) => "0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    }
}

/// What the pod shows that it was told.
fn told(pod: &Pod) -> Option<Arc<str>> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    let is_told = scheduled.status == "False" && scheduled.reason.as_deref() == Some("Unschedulable");
    scheduled.message.as_deref().filter(|_| is_told).map(Arc::from)
}

/// Whether it is time to tell what there is to tell since then. A clock that stepped back is no reason to wait.
fn is_due(since: Timestamp, now: Timestamp) -> bool {
    let waited = now.duration_since(since);
    waited >= PATIENCE || waited.is_negative()
}

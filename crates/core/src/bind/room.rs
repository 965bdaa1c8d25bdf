//! How much of a node is taken, and what does not fit in the rest.
//!
//! Invariant: what pods took they give back whole, since it is remembered by what they took.
//! Upstream: `pkg/scheduler/framework/plugins/noderesources/fit.go` (`fitsRequest`), `…/nodeports/node_ports.go`, v1.36.

use std::collections::BTreeSet;

use super::wish::{Amounts, Port, Wish, add};

/// The resource that counts pods.
const PODS: &str = "pods";

/// Why a pod does not fit, and whether it would if others went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// In the scheduler's words, in no order.
    pub reasons: Vec<String>,
    /// Whether it would not fit an empty node either.
    pub is_hopeless: bool,
}

/// What is there, and what is taken of it.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// `status.allocatable`.
    pub allocatable: Amounts,
    taken: Amounts,
    pods: i128,
    ports: Vec<Port>,
}

impl Room {
    /// Takes what is wished for, whether or not it fits.
    pub fn take(&mut self, wish: &Wish) {
        add(&mut self.taken, &wish.requests);
        self.pods += 1;
        self.ports.extend(wish.ports.iter().cloned());
    }

    /// Gives back what was taken.
    pub fn give_back(&mut self, wish: &Wish) {
        for (name, amount) in &wish.requests {
            if let Some(taken) = self.taken.get_mut(name) {
                *taken -= amount;
            }
        }
        self.taken.retain(|_, amount| *amount != 0);
        self.pods -= 1;
        for port in &wish.ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
    }

    /// What is lacking.
    pub fn lacks(&self, wish: &Wish) -> Option<Lack> {
        if wish.ports.iter().any(|port| self.ports.iter().any(|taken| taken.clashes(port))) {
            let reason = "node(s) didn't have free ports for the requested pod ports";
            return Some(Lack { reasons: vec![reason.to_owned()], is_hopeless: false });
        }
        let there = |name: &str| self.allocatable.get(name).copied().unwrap_or(0);
        let mut lack = Lack { reasons: Vec::new(), is_hopeless: false };
        if self.pods + 1 > there(PODS) {
            lack.reasons.push("Too many pods".to_owned());
        }
        for (name, amount) in &wish.requests {
            if *amount > there(name) - self.taken.get(name).copied().unwrap_or(0) {
                lack.reasons.push(format!("Insufficient {name}"));
                lack.is_hopeless |= *amount > there(name);
            }
        }
        (!lack.reasons.is_empty()).then_some(lack)
    }

    /// The resources of which more is taken than there is.
    pub fn overcommitted(&self) -> BTreeSet<&str> {
        let there = |name: &str| self.allocatable.get(name).copied().unwrap_or(0);
        let taken = self.taken.iter().map(|(name, amount)| (name.as_str(), *amount)).chain([(PODS, self.pods)]);
        taken.filter(|(name, amount)| *amount > there(name)).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amounts(list: &[(&str, i128)]) -> Amounts {
        list.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect()
    }

    fn wish(requests: &[(&str, i128)]) -> Wish {
        Wish { requests: amounts(requests), ..Wish::default() }
    }

    #[test]
    fn everything_that_is_lacking_is_told_and_whether_others_are_in_the_way() {
        let allocatable = amounts(&[("cpu", 1000), ("memory", 100), ("pods", 2)]);
        let mut room = Room { allocatable, ..Room::default() };
        assert_eq!(room.lacks(&wish(&[("cpu", 1000)])), None);
        room.take(&wish(&[("cpu", 600)]));
        let lack = |room: &Room, requests: &[(&str, i128)]| {
            room.lacks(&wish(requests)).map(|lack| (lack.reasons.join(", "), lack.is_hopeless))
        };
        let told = |reasons: &str, is_hopeless| Some((reasons.to_owned(), is_hopeless));
        assert_eq!(lack(&room, &[("cpu", 400)]), None);
        assert_eq!(lack(&room, &[("cpu", 401)]), told("Insufficient cpu", false));
        assert_eq!(lack(&room, &[("cpu", 401), ("memory", 101)]), told("Insufficient cpu, Insufficient memory", true));
        assert_eq!(lack(&room, &[("example.com/gpu", 1)]), told("Insufficient example.com/gpu", true));
        room.take(&wish(&[]));
        assert_eq!(lack(&room, &[]), told("Too many pods", false));
        assert_eq!(room.overcommitted(), BTreeSet::new());
        room.take(&wish(&[("memory", 101)]));
        assert_eq!(room.overcommitted(), BTreeSet::from(["memory", "pods"]));
    }

    #[test]
    fn a_taken_port_is_in_the_way() {
        let port = Port { number: 80, protocol: "TCP".into(), address: "0.0.0.0".into() };
        let wish = Wish { ports: vec![port], ..Wish::default() };
        let mut room = Room { allocatable: amounts(&[("pods", 9)]), ..Room::default() };
        room.take(&wish);
        let reasons = room.lacks(&wish).unwrap().reasons;
        assert_eq!(reasons, ["node(s) didn't have free ports for the requested pod ports"]);
        room.give_back(&wish);
        assert_eq!(room.lacks(&wish), None);
    }

    proptest! {
        #[test]
        fn what_is_given_back_is_free(sizes in prop::collection::vec((0_i128..50, 0_i128..50), 0..20)) {
            let mut room = Room { allocatable: amounts(&[("cpu", 100), ("memory", 100), ("pods", 100)]), ..Room::default() };
            let wishes: Vec<Wish> = sizes.iter().map(|(cpu, memory)| wish(&[("cpu", *cpu), ("memory", *memory)])).collect();
            for wish in &wishes {
                room.take(wish);
            }
            for wish in &wishes {
                room.give_back(wish);
            }
            prop_assert_eq!(room.lacks(&wish(&[("cpu", 100), ("memory", 100)])), None);
            prop_assert_eq!(room.pods, 0);
        }
    }
}

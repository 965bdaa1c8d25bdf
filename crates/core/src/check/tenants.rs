//! Who is on the node, and that there is room for them.
//!
//! Left out: pods that their makers put on the node themselves, past the scheduler; who feeds the ledger has none.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::Broken;
use crate::bind::{Room, Standing, Wish, amounts, standing};
use crate::job::view::uid_of;
use crate::plan::Uid;

/// The pods on the node.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    room: Room,
    /// What each of them has taken.
    bound: BTreeMap<Uid, Wish>,
}

impl Tenants {
    /// The node is so now.
    pub(super) fn node(&mut self, node: &Node) {
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        self.room.allocatable = allocatable.map(amounts).unwrap_or_default();
    }

    /// A pod is so now.
    pub(super) fn pod(&mut self, pod: &Pod) -> Result<(), Broken> {
        let uid = uid_of(pod);
        if !matches!(standing(pod), Standing::Assigned(_)) {
            self.gone(&uid);
            return Ok(());
        }
        if self.bound.contains_key(&uid) {
            return Ok(());
        }
        let wish = Wish::of(pod);
        self.room.take(&wish);
        self.bound.insert(uid, wish);
        let over = self.room.overcommitted();
        if over.is_empty() {
            return Ok(());
        }
        let what = over.into_iter().collect::<Vec<_>>().join(" and ");
        Err(Broken::Overcommitted { pod: pod.metadata.name.clone().unwrap_or_default(), what })
    }

    /// A pod is gone.
    pub(super) fn gone(&mut self, uid: &Uid) {
        if let Some(wish) = self.bound.remove(uid) {
            self.room.give_back(&wish);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, phase: &str) -> Pod {
        let resources = json!({ "requests": { "cpu": "600m" } });
        serde_json::from_value(json!({
            "metadata": { "name": name, "uid": name },
            "spec": { "nodeName": "n", "containers": [{ "name": "c", "resources": resources }] },
            "status": { "phase": phase },
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_that_is_bound_where_no_room_is_breaks_the_rule() {
        let mut tenants = Tenants::default();
        let allocatable = json!({ "cpu": "1", "pods": "9" });
        tenants.node(
            &serde_json::from_value(json!({ "metadata": {}, "status": { "allocatable": allocatable } })).unwrap(),
        );
        assert_eq!(tenants.pod(&pod("a", "Running")), Ok(()));
        assert_eq!(tenants.pod(&pod("a", "Succeeded")), Ok(()));
        assert_eq!(tenants.pod(&pod("b", "Pending")), Ok(()));
        let broken = Broken::Overcommitted { pod: "c".to_owned(), what: "cpu".to_owned() };
        assert_eq!(tenants.pod(&pod("c", "Pending")), Err(broken));
        tenants.gone(&Uid::from("b"));
        assert_eq!(tenants.pod(&pod("d", "Succeeded")), Ok(()));
    }
}

//! Where the API differs from a cluster's on purpose, and why: the source of that part of `docs/compatibility.md`.
//!
//! Invariant: a subresource that is refused is refused by its row here, so that the page says what the server does.
//! Left out: kinds that can only be read, which the table of kinds says (see [`crate::kinds`]); what becomes of each
//! field of a pod, which is [`fields`].

pub mod fields;

/// Something that a client may notice.
#[derive(Debug)]
pub struct Difference {
    /// What it is about.
    pub what: &'static str,
    /// What happens here.
    pub here: &'static str,
    /// Why it is not as in a cluster, or what happens there.
    pub why: &'static str,
}

/// A subresource that a cluster has and that is refused here.
#[derive(Debug)]
pub struct Absent {
    /// The plural of its kind, which is one of the core group.
    pub plural: &'static str,
    /// Its path segment.
    pub segment: &'static str,
    /// Why it is refused.
    pub why: &'static str,
}

/// Every subresource that is refused with a reason.
pub static ABSENT: &[Absent] = &[
    absent("nodes", "proxy", NO_PROXY),
    absent("pods", "proxy", NO_PROXY),
    absent("pods", "resize", "a pod keeps the resources that it began with"),
    absent("services", "proxy", NO_PROXY),
];

const NO_PROXY: &str = "there is no cluster network to reach into; port-forward connects to pods";

const fn absent(plural: &'static str, segment: &'static str, why: &'static str) -> Absent {
    Absent { plural, segment, why }
}

impl Absent {
    /// The refused subresource of that name, if there is one.
    pub(crate) fn at(group: &str, plural: &str, segment: &str) -> Option<&'static Self> {
        ABSENT.iter().find(|absent| group.is_empty() && absent.plural == plural && absent.segment == segment)
    }
}

/// What changes of the clocks do.
pub const CLOCKS: Difference = Difference {
    what: "a day whose midnight is skipped, east of Greenwich; an hour of which a shift by half an hour takes the start",
    here: "fires as the clock on the wall says",
    why: "a cluster leaves out such a day, or the rest of such an hour, where a schedule names no earlier one",
};

/// What becomes of Services.
pub const SERVICES: Difference = Difference {
    what: "Services",
    here: "headless ones give pods their names; others have a `clusterIP` that nothing listens at, and two may have the same by chance",
    why: "nothing balances load on one node; the rules about node ports, load balancers and address families are left out",
};

/// What becomes of claims.
pub const CLAIMS: Difference = Difference {
    what: "PersistentVolumeClaims",
    here: "are bound to volumes of type `local` and `hostPath`, and to folders that the class `standard` makes for them; they do not grow, and have no data sources",
    why: "there is one node, and its disk; the rules about the fields of each sort of volume are left out",
};

/// Every other difference.
pub static DIFFERENCES: &[Difference] = &[
    Difference {
        what: "`autoscaling`",
        here: "v2 only",
        why: "a group has one version here; clients find it by discovery",
    },
    Difference {
        what: "CBOR, watching over a WebSocket, `/api/v1/watch/…`",
        here: "not served",
        why: "clients do without them",
    },
    Difference {
        what: "priority and fairness",
        here: "a number of requests that read, and a number that write, at once",
        why: "one machine has few clients; who finds no place gets 429 at once, as in a cluster",
    },
    Difference {
        what: "access reviews",
        here: "`fieldSelector` and `labelSelector` are not looked at",
        why: "RBAC does not look at them either; they are for webhooks, of which there are none",
    },
    Difference {
        what: "patch directives that can't be followed (`$patch`, `$setElementOrder`, …)",
        here: "400",
        why: "the patch is at fault; a cluster answers 500 to those that it did not foresee",
    },
    Difference {
        what: "messages and causes that go through a map",
        here: "in order of the keys",
        why: "in a cluster the order is random",
    },
    Difference {
        what: "`tailLines` of logs",
        here: "counts whole lines",
        why: "in a cluster the pieces count in which a runtime logged a long line",
    },
    Difference {
        what: "Pod Security",
        here: "by the labels of namespaces; nobody is exempt",
        why: "a cluster may be configured to exempt users, namespaces and RuntimeClasses",
    },
    Difference {
        what: "logs that were rotated",
        here: "are shown and followed with all files that are kept; full files are not compressed",
        why: "in a cluster `kubectl logs` shows the newest file only, and may miss lines while it follows",
    },
    Difference {
        what: "`attach`",
        here: "shows output from now on, a terminal's a moment later",
        why: "output is read from the log, so that onlookers can't hold a container up and survive a restart",
    },
    Difference {
        what: "when a probe is asked first",
        here: "as soon as `initialDelaySeconds` are over",
        why: "a kubelet begins somewhere in the first period, to spread the load of many pods",
    },
    Difference {
        what: "`restartPolicyRules`",
        here: "the action `RestartAllContainers` is not followed, and warned about",
        why: "it needs a pod to begin anew with its volumes; `Restart` is followed",
    },
    Difference { what: "eviction", here: "never refused with 429", why: "there are no disruption budgets" },
    Difference {
        what: "`status.active` of Jobs whose replacements wait",
        here: "the number of pods that are active",
        why: "a cluster writes 0, whatever is active; while a pod is ready its own API refuses that",
    },
    Difference {
        what: "when the Job controller looks at a Job",
        here: "at once",
        why: "a cluster waits 1 s after an event about a pod, to spare an API server that many others use",
    },
    Difference {
        what: "states of a Job between its controller's own writes",
        here: "finished pods are counted before others take their places, and an end is written before pods are deleted",
        why: "a cluster creates and deletes first; a crash between the writes then has to be made up for",
    },
    Difference {
        what: "an active pod of a Job that has lost its tracking finalizer",
        here: "is deleted and replaced",
        why: "nobody would count it: it was to go, and only its deletion has failed; a cluster lets it run",
    },
    Difference {
        what: "the delay before a failed pod is replaced",
        here: "derived from the pods, and kept through a restart",
        why: "a cluster's controller forgets it with its process",
    },
    Difference {
        what: "the table of CronJobs",
        here: "has a last column, NEXT",
        why: "people want to know when it fires; a cluster tells only when it fired last",
    },
    Difference {
        what: "a schedule that no date matches, as 31 February",
        here: "accepted with a warning",
        why: "a cluster accepts it silently; its controller tells of it in an event when it looks for the next time",
    },
    CLOCKS,
    Difference {
        what: "deletion of a namespace",
        here: "begins at once",
        why: "a cluster waits 5 s until all its API servers have seen it; there is one here",
    },
    Difference {
        what: "a new ResourceQuota",
        here: "limits from the moment it is there",
        why: "a cluster refuses everything that it limits until a controller has seen it",
    },
    Difference {
        what: "scheduling",
        here: "pods are bound where their requests fit, by priority and then age, with the kube-scheduler's conditions, events and messages for a cluster of one node, told after half a second; there is no preemption, and a `namespaceSelector` of an affinity selects by `kubernetes.io/metadata.name` only",
        why: "a pod of high priority waits until there is room, rather than that others are ended",
    },
    SERVICES,
    Difference {
        what: "the network of pods",
        here: "IPv4 only; the world reaches pods by host ports only, and NetworkPolicies are not looked at",
        why: "one machine's pods are its own business; a firewall of the machine's says more",
    },
    Difference {
        what: "names of pods in DNS",
        here: "addresses of headless Services and their pods; no `SRV` and `PTR` records",
        why: "that is what Jobs look each other up by",
    },
    CLAIMS,
];

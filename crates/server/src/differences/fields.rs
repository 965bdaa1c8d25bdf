//! What becomes of each field of a pod: the source of that part of `docs/compatibility.md`.
//!
//! Invariant: every field that a pod's spec has in the API is in one row, and every row says the truth: what is done is
//! shown by a test that is named, what is warned about is in `stint_core::validate::unhonoured`. Tests compare the rows
//! with the API's types, with the warnings and with the tests that there are.
//! Left out: what a field may hold, which validation says; Jobs themselves (`docs/jobs.md`).
//!
//! To do a field: take its row from `unhonoured`, and make it `yes` or `partly` here.

mod containers;
mod placement;
mod pod;
mod volumes;

/// One type of the API, with all its fields.
#[derive(Debug)]
pub struct ApiType {
    /// Its name, without its package.
    pub name: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
}

/// A field, by the name that it has in manifests, and what becomes of it.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What becomes of it.
    pub here: Here,
}

/// What becomes of a field here.
#[derive(Debug)]
pub enum Here {
    /// It does what it does in a cluster.
    Yes {
        /// What that is, where its name doesn't say.
        how: &'static str,
        /// The tests that show it.
        tests: Tests,
    },
    /// It does some of that.
    Partly {
        /// What, and what not.
        how: &'static str,
        /// The tests that show what it does.
        tests: Tests,
    },
    /// Whoever creates the pod is warned, in the words of `stint_core::validate::unhonoured`.
    Warned,
    /// It is accepted and has no effect, and nothing is lost by that.
    Moot(&'static str),
}

/// Tests: the file, seen from the repository's root, and the name.
pub type Tests = &'static [(&'static str, &'static str)];

const fn yes(name: &'static str, how: &'static str, tests: Tests) -> Field {
    Field { name, here: Here::Yes { how, tests } }
}

const fn partly(name: &'static str, how: &'static str, tests: Tests) -> Field {
    Field { name, here: Here::Partly { how, tests } }
}

const fn warned(name: &'static str) -> Field {
    Field { name, here: Here::Warned }
}

const fn moot(name: &'static str, why: &'static str) -> Field {
    Field { name, here: Here::Moot(why) }
}

const fn of(name: &'static str, fields: &'static [Field]) -> ApiType {
    ApiType { name, fields }
}

/// Every type whose fields have rows, from the pod's spec inwards.
pub fn types() -> impl Iterator<Item = &'static ApiType> {
    [pod::TYPES, containers::TYPES, volumes::TYPES, placement::TYPES].into_iter().flatten()
}

/// Types without rows of their own: the row of the field that has them speaks for all that is in them.
pub static WHOLE: &[&str] = &[
    "AppArmorProfile",
    "ConfigMapKeySelector",
    "ContainerRestartRule",
    "EphemeralContainer",
    "ExecAction",
    "GRPCAction",
    "HTTPHeader",
    "HostAlias",
    "IntOrString",
    "LabelSelector",
    "LocalObjectReference",
    "NodeSelector",
    "ObjectFieldSelector",
    "ObjectMeta",
    "PersistentVolumeClaimSpec",
    "PodDNSConfigOption",
    "PodSchedulingGate",
    "Quantity",
    "SeccompProfile",
    "SecretKeySelector",
    "SleepAction",
    "Sysctl",
];

// Where most of the tests are.
const ACCOUNT: &str = "crates/core/src/admission/account.rs";
const ADMISSION: &str = "crates/server/tests/api/admission.rs";
const AGENT: &str = "crates/agent/tests/pods.rs";
const BIND: &str = "crates/core/src/bind/tests.rs";
const ETC: &str = "crates/agent/src/etc.rs";
const GOLDEN: &str = "crates/core/tests/golden_create.rs";
const HANDLER: &str = "crates/agent/src/handler/tests.rs";
const HOOKS: &str = "crates/core/src/pod/tests/hooks.rs";
const NEIGHBOURS: &str = "crates/core/src/bind/neighbours.rs";
const NETWORK: &str = "crates/stint/tests/network.rs";
const PLACE: &str = "crates/core/src/bind/place.rs";
const POD: &str = "crates/core/src/pod/tests.rs";
const PROBE: &str = "crates/core/src/pod/probe/tests.rs";
const PROBES: &str = "crates/core/src/pod/tests/probes.rs";
const REAL: &str = "crates/agent/tests/real.rs";
const SPEC: &str = "crates/agent/src/spec/tests.rs";
const TOKENS: &str = "crates/agent/tests/volumes.rs";
const VOLUMES: &str = "crates/stint/tests/volumes.rs";
const WISH: &str = "crates/core/src/bind/wish.rs";

const SPREAD: Tests = &[("crates/core/src/bind/spread.rs", "on_one_node_its_label_and_the_number_of_domains_count")];
const IN_MANIFESTS: Tests = &[(GOLDEN, "create_requests_are_answered_as_kubernetes_answers_them")];
const APP_ARMOR: &str = "`RuntimeDefault` is the default where the kernel has AppArmor; where it has none, who asks for a profile is rejected";
const NEEDS_SELINUX: &str = "there is no SELinux here";
const FOR_WINDOWS: &str = "for Windows";
const ONE_NODE: &str = "one node has no others to choose from";

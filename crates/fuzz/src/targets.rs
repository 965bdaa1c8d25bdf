//! The targets: what runs on bytes, and good bytes to begin with.

mod api;
mod next;
mod text;

/// What a fuzzer tries to break.
#[derive(Debug)]
pub struct Target {
    /// Its name, also that of its file in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Panics if these bytes did harm.
    pub run: fn(&[u8]),
    /// Bytes that are read to their end.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub static TARGETS: &[Target] = &[
    Target { name: "manifest", run: text::manifest, seeds: text::manifests },
    Target { name: "protobuf", run: text::protobuf, seeds: text::messages },
    Target { name: "schedule", run: text::schedule, seeds: text::schedules },
    Target { name: "crontab", run: text::crontab, seeds: text::crontabs },
    Target { name: "next", run: next::next, seeds: next::seeds },
    Target { name: "layer", run: text::layer, seeds: text::layers },
    Target { name: "create", run: api::create, seeds: api::bodies },
    Target { name: "patch", run: api::patch, seeds: api::patches },
    Target { name: "selector", run: api::selector, seeds: api::selectors },
    Target { name: "continue_token", run: api::continue_token, seeds: api::tokens },
    Target { name: "requests", run: api::requests, seeds: api::chances },
    Target { name: "paths", run: api::paths, seeds: api::chances },
];

impl Target {
    /// The target called `name`.
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }
}

//! How far a watch has come.
//!
//! Invariant: the revision is that of what the cache shows. What a list brings counts once the list is whole.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// How far one watch has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// The newest revision that was shown.
    pub revision: u64,
    /// How many lists have begun.
    pub lists_begun: u64,
    /// Which list was completed last, by its number.
    pub list_done: u64,
    /// The newest revision in the list that is being read.
    listed: u64,
}

impl Progress {
    /// A list begins.
    pub fn begin(&mut self) {
        self.lists_begun += 1;
        self.listed = 0;
    }

    /// The list that is being read holds an object.
    pub fn lists(&mut self, meta: &ObjectMeta) {
        self.listed = self.listed.max(parse_revision(meta.resource_version.as_ref()));
    }

    /// The list is whole.
    pub fn end(&mut self) {
        self.list_done = self.lists_begun;
        self.revision = self.revision.max(self.listed);
    }

    /// An object has changed.
    pub fn saw(&mut self, meta: &ObjectMeta) {
        self.revision = self.revision.max(parse_revision(meta.resource_version.as_ref()));
    }
}

/// `metadata.resourceVersion` as a number (KEP-5504: comparable since 1.35); 0 when it is absent or no number.
pub fn parse_revision(revision: Option<&String>) -> u64 {
    revision.and_then(|text| text.parse().ok()).unwrap_or(0)
}

//! Query parameters, and what they mean to more than one verb.
//!
//! Upstream: `apimachinery/pkg/apis/meta/internalversion/validation`, `apiserver/pkg/endpoints/handlers`, v1.36.

use stint_core::field::{Fault, Path, Value};
use stint_store::Revision;

use crate::managed::LONGEST_MANAGER;
use crate::status::{Error, Result};

/// The decoded query of a request.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

/// What to do about fields that no type has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them, and say so.
    Warn,
    /// Refuse.
    Strict,
}

/// Which state a list is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtRevision {
    /// The newest.
    Newest,
    /// Any; we always have the newest.
    Any,
    /// At least this one.
    NotOlderThan(u64),
    /// This one.
    Exact(u64),
}

impl Params {
    pub(crate) fn of(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// A parameter that is there and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let pair = self.0.iter().find(|(given, _)| given == name)?;
        Some(pair.1.as_str()).filter(|value| !value.is_empty())
    }

    /// Every value of a parameter that may be given more than once.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// A flag, as Go's `strconv.ParseBool` and Kubernetes' conversion of query values read it.
    pub(crate) fn flag(&self, name: &str) -> bool {
        match self.0.iter().find(|(given, _)| given == name) {
            None => false,
            Some((_, value)) => !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"),
        }
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>> {
        self.get(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| Error::BadRequest(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
            })
            .transpose()
    }

    /// Whether nothing is to be stored. `options` is the kind named in a refusal.
    pub(crate) fn dry_run(&self, options: &'static str) -> Result<bool> {
        let given: Vec<&str> =
            self.0.iter().filter(|(name, _)| name == "dryRun").map(|(_, value)| value.as_str()).collect();
        if given.iter().all(|value| *value == "All") {
            return Ok(!given.is_empty());
        }
        let root = Path::root();
        let fault = Fault::not_supported(&root.field("dryRun"), Value::json(&given), &["All"]);
        Err(Error::options(options, vec![fault]))
    }

    /// Who is to own what the request writes.
    pub(crate) fn field_manager(&self, options: &'static str) -> Result<Option<&str>> {
        let Some(manager) = self.get("fieldManager") else { return Ok(None) };
        let root = Path::root();
        let field = root.field("fieldManager");
        let mut faults = Vec::new();
        if manager.len() > LONGEST_MANAGER {
            faults.push(Fault::too_long(&field, LONGEST_MANAGER));
        }
        for (at, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
            let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
            faults.push(Fault::invalid(&field, manager, why));
        }
        if faults.is_empty() { Ok(Some(manager)) } else { Err(Error::options(options, faults)) }
    }

    pub(crate) fn field_validation(&self, options: &'static str) -> Result<FieldValidation> {
        match self.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => {
                let root = Path::root();
                let supported = ["", "Ignore", "Strict", "Warn"];
                let fault = Fault::not_supported(&root.field("fieldValidation"), other, &supported);
                Err(Error::options(options, vec![fault]))
            }
        }
    }

    /// The state that a list asks for.
    pub(crate) fn at_revision(&self) -> Result<AtRevision> {
        let root = Path::root();
        let field = root.field("resourceVersionMatch");
        let version = self.get("resourceVersion");
        let matching = self.get("resourceVersionMatch");
        let mut faults = Vec::new();
        if let Some(matching) = matching {
            let mut forbid = |why: &str| faults.push(Fault::forbidden(&field, why));
            if version.is_none() {
                forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if self.get("continue").is_some() {
                forbid("resourceVersionMatch is forbidden when continue is provided");
            }
            match matching {
                "Exact" if version == Some("0") => {
                    forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
                }
                "Exact" | "NotOlderThan" => {}
                other => faults.push(Fault::not_supported(&field, other, &["Exact", "NotOlderThan", ""])),
            }
        }
        if self.get("sendInitialEvents").is_some() {
            let field = root.field("sendInitialEvents");
            faults.push(Fault::forbidden(&field, "sendInitialEvents is forbidden for list"));
        }
        if !faults.is_empty() {
            return Err(Error::options("ListOptions", faults));
        }
        let Some(version) = version else { return Ok(AtRevision::Newest) };
        let number: u64 = version.parse().map_err(|_| {
            Error::BadRequest(format!(
                "invalid resource version: resourceVersion: Invalid value: {version:?}: strconv.ParseUint: parsing {version:?}: invalid syntax"
            ))
        })?;
        Ok(match (matching, number) {
            (Some("Exact"), number) => AtRevision::Exact(number),
            (_, 0) => AtRevision::Any,
            (_, number) => AtRevision::NotOlderThan(number),
        })
    }
}

/// The revision that an object's `resourceVersion` names. None: it names none.
pub(crate) fn object_revision(version: Option<&str>) -> Result<Option<Revision>> {
    match version {
        None | Some("" | "0") => Ok(None),
        Some(text) => text.parse().map(|number| Some(Revision(number))).map_err(|_| {
            Error::Internal(format!(
                "invalid resource version {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        }),
    }
}

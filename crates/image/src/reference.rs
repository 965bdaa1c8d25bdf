//! Image references: the names that people write for images, such as `perl:5.34.0` or
//! `registry.example:5000/team/tool@sha256:…`.
//!
//! The grammar is that of the container world (`[registry/]repository[:tag][@digest]`), parsed by hand so that a fault
//! is named instead of "invalid format". A reference is always complete: the registry and the tag that a short name
//! leaves out are filled in when it is parsed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The registry of a name without one. Its images without a folder live in [`DEFAULT_FOLDER`].
pub(crate) const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_FOLDER: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;

/// A complete image reference.
///
/// `Display` writes the canonical form, with registry and tag; [`Reference::familiar`] the short form that people know.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {text:?}: {fault}")]
pub struct InvalidReference {
    text: String,
    fault: String,
}

impl Reference {
    /// The registry's host, with its port when it names one, such as `registry.example:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository inside the registry, such as `team/tool`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. Absent only when the reference names a digest alone.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest or index digest that the reference insists on.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The short form: without the default registry and its default folder.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(rest) = full.strip_prefix(DEFAULT_REGISTRY).and_then(|rest| rest.strip_prefix('/')) else {
            return full;
        };
        let short = rest.strip_prefix(DEFAULT_FOLDER).filter(|name| !name.contains('/'));
        short.unwrap_or(rest).to_owned()
    }

    /// The same repository at a digest, without a tag.
    #[must_use]
    pub fn at(&self, digest: &Digest) -> Self {
        Self { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|fault| InvalidReference { text: text.to_owned(), fault })
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.trim() != text {
        return Err("it starts or ends with white space".to_owned());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|fault| fault.to_string())?)),
        None => (text, None),
    };
    // A colon after the last slash starts the tag; one before it belongs to the registry's port.
    let (name, tag) = match rest.rfind(':') {
        Some(colon) if !rest[colon..].contains('/') => (&rest[..colon], Some(&rest[colon + 1..])),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    if name.is_empty() {
        return Err("it names no repository".to_owned());
    }
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
        return Err("64 hexadecimal digits are an image id, not a name".to_owned());
    }
    let (registry, repository) = match name.split_once('/') {
        Some((first, repository)) if is_registry(first) => (first, repository),
        _ => (DEFAULT_REGISTRY, name),
    };
    check_registry(registry)?;
    check_repository(repository)?;
    let (registry, repository) = normalise(registry, repository);
    if registry.len() + 1 + repository.len() > LONGEST_NAME {
        return Err(format!("registry and repository are longer than {LONGEST_NAME} characters"));
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some(DEFAULT_TAG.to_owned()),
    };
    Ok(Reference { registry, repository, tag, digest })
}

/// Whether the first part of a name is a registry rather than a folder, as the container world decides it.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn normalise(registry: &str, repository: &str) -> (String, String) {
    let is_default = registry == DEFAULT_REGISTRY || registry.strip_prefix("index.") == Some(DEFAULT_REGISTRY);
    if !is_default {
        return (registry.to_owned(), repository.to_owned());
    }
    let folder = if repository.contains('/') { "" } else { DEFAULT_FOLDER };
    (DEFAULT_REGISTRY.to_owned(), format!("{folder}{repository}"))
}

fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(|| format!("registry {registry:?} lacks a ]"))?;
            if !host.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return Err(format!("registry {registry:?} is no IPv6 address"));
            }
            return check_port(registry, port.strip_prefix(':').or(if port.is_empty() { None } else { Some("") }));
        }
        None => registry.split_once(':').map_or((registry, None), |(host, port)| (host, Some(port))),
    };
    for label in host.split('.') {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if label.is_empty() || label.starts_with('-') || label.ends_with('-') || !label.bytes().all(inside) {
            return Err(format!("registry {registry:?} is no host name"));
        }
    }
    check_port(registry, port)
}

fn check_port(registry: &str, port: Option<&str>) -> Result<(), String> {
    match port {
        Some(port) if port.parse::<u16>().is_err() || !port.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("registry {registry:?} has no valid port"))
        }
        _ => Ok(()),
    }
}

fn check_repository(repository: &str) -> Result<(), String> {
    for part in repository.split('/') {
        if part.is_empty() {
            return Err(format!("repository {repository:?} has an empty part"));
        }
        if part.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(format!("repository name must be lowercase, {part:?} is not"));
        }
        if let Some(odd) = part.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(*c)))
        {
            return Err(format!("repository {repository:?} holds {odd:?}"));
        }
        // Separators stand between letters or digits: one dot, one or two underscores, any number of dashes.
        let mut separators = part.split(|c: char| c.is_ascii_alphanumeric());
        if !separators.all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
            || part.starts_with(['.', '_', '-'])
            || part.ends_with(['.', '_', '-'])
        {
            return Err(format!("repository part {part:?} has a separator where none may be"));
        }
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), String> {
    if tag.is_empty() {
        return Err("the tag is empty".to_owned());
    }
    if tag.len() > LONGEST_TAG {
        return Err(format!("the tag is longer than {LONGEST_TAG} characters"));
    }
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if !tag.bytes().all(inside) || tag.starts_with(['.', '-']) {
        return Err(format!("tag {tag:?} holds a character that a tag may not"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

    #[test]
    fn short_names_get_their_registry_folder_and_tag() {
        let cases = [
            ("perl:5.34.0", "docker.io/library/perl:5.34.0", "perl:5.34.0"),
            ("perl", "docker.io/library/perl:latest", "perl:latest"),
            ("team/tool:1", "docker.io/team/tool:1", "team/tool:1"),
            ("docker.io/perl", "docker.io/library/perl:latest", "perl:latest"),
            ("index.docker.io/library/perl", "docker.io/library/perl:latest", "perl:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            ("host:5000/a/b", "host:5000/a/b:latest", "host:5000/a/b:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            (
                "registry.example/a__b/c-d--e.f:V1_x",
                "registry.example/a__b/c-d--e.f:V1_x",
                "registry.example/a__b/c-d--e.f:V1_x",
            ),
        ];
        for (text, canonical, familiar) in cases {
            let reference: Reference = text.parse().expect(text);
            assert_eq!(reference.to_string(), canonical);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(
                canonical.parse::<Reference>().expect(canonical),
                reference,
                "the canonical form parses to itself"
            );
            assert_eq!(familiar.parse::<Reference>().expect(familiar), reference, "the familiar form parses to itself");
        }
    }

    #[test]
    fn a_digest_stands_alone_or_beside_a_tag() {
        let alone: Reference = format!("host:5000/a/b@sha256:{HEX}").parse().unwrap();
        assert_eq!((alone.tag(), alone.digest().unwrap().hex()), (None, HEX));
        let both: Reference = format!("perl:5@sha256:{HEX}").parse().unwrap();
        assert_eq!(both.to_string(), format!("docker.io/library/perl:5@sha256:{HEX}"));
        assert_eq!(both.at(alone.digest().unwrap()).familiar(), format!("perl@sha256:{HEX}"));
    }

    #[test]
    fn a_fault_is_named() {
        let long_tag = format!("a:{}", "x".repeat(129));
        let long_name = "a/".repeat(130) + "b";
        let cases = [
            ("", "empty"),
            (" perl", "white space"),
            ("Perl", "lowercase"),
            ("perl:", "tag is empty"),
            ("perl:a b", "tag \"a b\""),
            (":5", "no repository"),
            ("a//b", "empty part"),
            ("a/", "empty part"),
            ("a$b", "'$'"),
            ("a..b", "separator"),
            ("-a", "separator"),
            ("a_", "separator"),
            ("host:port/a", "port"),
            ("ho_st.x/a", "host name"),
            ("a@sha256:123", "64"),
            ("a@md5:123", "md5"),
            (HEX, "image id"),
            (&long_tag, "longer than 128"),
            (&long_name, "longer than 255"),
            ("../../etc/passwd", "host name"),
        ];
        for (text, expected) in cases {
            let fault = text.parse::<Reference>().expect_err(text).to_string();
            assert!(fault.contains(expected), "{text:?}: {fault}");
            assert!(fault.starts_with("invalid image reference"), "{fault}");
        }
    }
}

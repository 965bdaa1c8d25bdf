//! UIDs of Kubernetes objects (`metadata.uid`).
//!
//! Invariant: a UID is written as it was read, letter for letter. One that is a UUID, as API servers make them, takes 24
//! bytes and no allocation: controllers remember several for each object that there is.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, Serializer};

/// A UID. That of an object that was never stored is empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(Form);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Form {
    /// A UUID in lower case.
    Uuid([u8; 16]),
    /// Anything else.
    Text(Arc<str>),
}

impl Uid {
    /// The UID that `meta` holds.
    pub fn of(meta: &ObjectMeta) -> Uid {
        Uid::from(meta.uid.as_deref().unwrap_or_default())
    }
}

impl From<&str> for Uid {
    fn from(text: &str) -> Uid {
        Uid(uuid(text.as_bytes()).map_or_else(|| Form::Text(text.into()), Form::Uuid))
    }
}

/// The bytes of a UUID that is written in lower case.
fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    if text.len() != 36 || DASHES.iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let mut digits = text.iter().enumerate().filter(|(at, _)| !DASHES.contains(at)).map(|(_, byte)| digit(*byte));
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        *byte = digits.next()?? << 4 | digits.next()??;
    }
    Some(bytes)
}

fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Text(text) => f.write_str(text),
            Form::Uuid(bytes) => {
                for (at, byte) in bytes.iter().enumerate() {
                    let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
                    write!(f, "{dash}{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uid({self})")
    }
}

impl Serialize for Uid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_would_be_written_the_same_is_taken_for_a_uuid() {
        let good = "0f8fad5b-d9cb-469f-a165-70867728950e";
        assert!(matches!(Uid::from(good).0, Form::Uuid(_)));
        let upper = good.to_uppercase();
        let shifted = "0f8fad5bd-9cb-469f-a165-70867728950e";
        let long = format!("0{good}");
        for other in ["", "u", &upper, shifted, &long, &good[1..], "0f8fad5b-d9cb-469f-a165-70867728950g"] {
            assert!(matches!(Uid::from(other).0, Form::Text(_)), "{other}");
            assert_eq!(Uid::from(other).to_string(), other);
        }
        assert_eq!(size_of::<Uid>(), 24);
    }

    proptest! {
        #[test]
        fn a_uid_is_written_as_it_was_read(
            one in "[0-9a-fA-F]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[a-z-]{0,40}",
            other in "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        ) {
            prop_assert_eq!(Uid::from(&*one).to_string(), &*one);
            prop_assert_eq!(Uid::from(&*one) == Uid::from(&*other), one == other);
        }
    }
}

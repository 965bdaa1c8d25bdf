//! When the keys that sign tokens change: a file of keys, and what it has to be at a time.
//!
//! ```text
//!   Made                     signs for `Rotation::signs`                  Until
//!    │  signs and verifies  ─────────────────────────▶  only verifies  ────▶  gone
//!    └ a new key is made in front of it ──────────────────────┘
//! ```
//!
//! Invariant: a key verifies for as long as a token that it signed can be alive, whatever the setting was when the token
//! was made: the key remembers the longest life that it may have given (`Longest`). A key without these notes, of an older
//! file, counts as made now.
//! Left out: who reads and writes the file, and how often.

use jiff::{SignedDuration, Timestamp};
use pem::{EncodeConfig, LineEnding, Pem};

use crate::keys::{KeyError, generate};

/// How much longer a key verifies than its last token lives: one may be made while keys change.
const SLACK: i64 = 60;

/// The notes on each key, as headers of its PEM block: seconds, or seconds since 1970.
const MADE: &str = "Made";
const LONGEST: &str = "Longest-Token";
const UNTIL: &str = "Verifies-Until";

/// How keys change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// How long a key signs before a new one does. None: for ever.
    pub signs: Option<SignedDuration>,
    /// How long the longest token lasts.
    pub longest: SignedDuration,
}

/// A key with its notes, in seconds.
struct Noted {
    key: Pem,
    made: i64,
    longest: i64,
    /// None: it signs.
    until: Option<i64>,
}

/// The keys as they have to be at `now`: the one that signs is first, and those are gone whose last token has expired.
pub fn settled(keys: &str, rotation: Rotation, now: Timestamp) -> Result<String, KeyError> {
    let now = now.as_second();
    let longest = rotation.longest.as_secs();
    let mut all = read(keys, now, longest)?;
    if let Some(signing) = all.first_mut() {
        signing.longest = signing.longest.max(longest);
        signing.until = None;
        if rotation.signs.is_some_and(|signs| now.saturating_sub(signing.made) >= signs.as_secs()) {
            signing.until = Some(verifies_until(now, signing));
            let made = read(&generate()?, now, longest)?;
            all.splice(0..0, made);
        }
    }
    for old in all.iter_mut().skip(1) {
        old.until = old.until.or(Some(verifies_until(now, old)));
    }
    all.retain(|key| key.until.is_none_or(|until| now < until));
    Ok(write(&all))
}

/// Until when a key that signs no more from `now` on has to verify.
fn verifies_until(now: i64, key: &Noted) -> i64 {
    now.saturating_add(key.longest).saturating_add(SLACK)
}

fn read(keys: &str, now: i64, longest: i64) -> Result<Vec<Noted>, KeyError> {
    let blocks = pem::parse_many(keys).map_err(KeyError::Pem)?;
    Ok(blocks.into_iter().map(|key| noted(key, now, longest)).collect())
}

fn noted(key: Pem, now: i64, longest: i64) -> Noted {
    let note = |name: &str| key.headers().get(name).and_then(|text| text.parse().ok());
    let (made, kept, until) = (note(MADE), note(LONGEST), note(UNTIL));
    Noted { key, made: made.unwrap_or(now), longest: kept.unwrap_or(longest), until }
}

fn write(keys: &[Noted]) -> String {
    let blocks: Vec<Pem> = keys.iter().map(block).collect();
    pem::encode_many_config(&blocks, EncodeConfig::new().set_line_ending(LineEnding::LF))
}

fn block(noted: &Noted) -> Pem {
    let mut block = Pem::new(noted.key.tag(), noted.key.contents());
    let notes = [(MADE, Some(noted.made)), (LONGEST, Some(noted.longest)), (UNTIL, noted.until)];
    for (name, seconds) in notes {
        if let Some(seconds) = seconds {
            block
                .headers_mut()
                .add(name, &seconds.to_string())
                .expect("names and numbers have no colon and no line end");
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keyring;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + hours * 3600).unwrap()
    }

    fn rotation(signs: Option<i64>, longest: i64) -> Rotation {
        Rotation { signs: signs.map(SignedDuration::from_hours), longest: SignedDuration::from_hours(longest) }
    }

    fn ids(keys: &str) -> Vec<String> {
        let keys = Keyring::from_pem(keys).unwrap().jwks();
        keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_key_signs_for_its_time_and_verifies_as_long_as_its_last_token_lives() {
        let rotation = rotation(Some(10), 5);
        let first = settled(&generate().unwrap(), rotation, at(0)).unwrap();
        assert_eq!(settled(&first, rotation, at(9)).unwrap(), first, "nothing changes before its time");
        let second = settled(&first, rotation, at(10)).unwrap();
        assert_eq!(ids(&second).len(), 2);
        assert_eq!(ids(&second)[1], ids(&first)[0], "the new one is in front");
        assert_eq!(settled(&second, rotation, at(10)).unwrap(), second, "twice changes nothing");
        assert_eq!(settled(&second, rotation, at(15)).unwrap(), second);
        assert_eq!(ids(&settled(&second, rotation, at(16)).unwrap()), [ids(&second)[0].clone()]);
    }

    #[test]
    fn a_shorter_life_that_is_set_later_does_not_end_tokens_that_were_made_before() {
        let first = settled(&generate().unwrap(), rotation(Some(10), 100), at(0)).unwrap();
        let second = settled(&first, rotation(Some(10), 1), at(10)).unwrap();
        assert_eq!(ids(&settled(&second, rotation(None, 1), at(110)).unwrap()).len(), 2);
        assert_eq!(ids(&settled(&second, rotation(None, 1), at(111)).unwrap()).len(), 1);
    }

    #[test]
    fn a_longer_life_that_is_set_later_counts() {
        let first = settled(&generate().unwrap(), rotation(None, 1), at(0)).unwrap();
        let first = settled(&first, rotation(None, 100), at(5)).unwrap();
        let second = settled(&first, rotation(Some(10), 100), at(10)).unwrap();
        assert_eq!(ids(&settled(&second, rotation(None, 1), at(109)).unwrap()).len(), 2);
    }

    #[test]
    fn a_file_without_notes_counts_as_made_now_and_can_hold_old_keys() {
        let two = generate().unwrap() + &generate().unwrap();
        let noted = settled(&two, rotation(Some(10), 5), at(0)).unwrap();
        assert_eq!(ids(&noted), ids(&two));
        assert_eq!(ids(&settled(&noted, rotation(Some(10), 5), at(6)).unwrap()).len(), 1);
        assert!(matches!(
            settled("-----BEGIN X-----\n!\n-----END X-----", rotation(None, 1), at(0)),
            Err(KeyError::Pem(_))
        ));
        assert_eq!(settled("", rotation(None, 1), at(0)).unwrap(), "", "who reads it says that it is empty");
    }
}

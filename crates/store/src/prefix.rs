//! Finds the watched prefixes of a key without looking at the other ones.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// Values by prefix.
#[derive(Debug)]
pub(crate) struct PrefixMap<V>(BTreeMap<Arc<str>, V>);

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V> PrefixMap<V> {
    /// The value of exactly this prefix, made when there is none.
    pub(crate) fn entry(&mut self, prefix: Arc<str>) -> &mut V
    where
        V: Default,
    {
        self.0.entry(prefix).or_default()
    }

    pub(crate) fn get_mut(&mut self, prefix: &str) -> Option<&mut V> {
        self.0.get_mut(prefix)
    }

    pub(crate) fn remove(&mut self, prefix: &str) -> Option<V> {
        self.0.remove(prefix)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values()
    }

    /// The values of all prefixes of the key, longest prefix first.
    ///
    /// Each step asks for the greatest prefix that is not above a bound which itself is a prefix of the key. Either it
    /// is a prefix of the key, or everything that is must also be a prefix of what both have in common.
    pub(crate) fn matches<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a V> {
        let mut bound = Some(Bound::Included(key));
        std::iter::from_fn(move || {
            loop {
                let (found, value) = self.0.range::<str, _>((Bound::Unbounded, bound?)).next_back()?;
                let common = common_prefix(found, key);
                if common.len() == found.len() {
                    bound = (!common.is_empty()).then_some(Bound::Excluded(common));
                    return Some(value);
                }
                bound = Some(Bound::Included(common));
            }
        })
    }
}

/// The longest common prefix, as a part of the key.
fn common_prefix<'a>(other: &str, key: &'a str) -> &'a str {
    let mut length = other.bytes().zip(key.bytes()).take_while(|(a, b)| a == b).count();
    while !key.is_char_boundary(length) {
        length -= 1;
    }
    &key[..length]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn matches_are_exactly_the_prefixes_of_the_key(
            prefixes in proptest::collection::btree_set("[aé/]{0,5}", 0..40),
            key in "[aé/]{0,7}",
        ) {
            let mut map = PrefixMap::default();
            for prefix in &prefixes {
                *map.entry(prefix.as_str().into()) = prefix.clone();
            }
            let found: Vec<&String> = map.matches(&key).collect();
            let expected: Vec<&String> = prefixes.iter().rev().filter(|prefix| key.starts_with(*prefix)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

//! Texts that many objects have in common, such as namespaces, each held once.
//!
//! Invariant: what nobody shares any more is let go of, before there is twice as much of it as of the rest.

use std::collections::HashSet;
use std::sync::Arc;

/// From how many texts on it is worth looking for those that nobody shares.
const FEW: usize = 256;

/// The texts.
#[derive(Debug, Default)]
pub struct Texts {
    known: HashSet<Arc<str>>,
    /// How many there were after the last look.
    shared: usize,
}

impl Texts {
    /// The one copy of `text`.
    pub fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= FEW.max(self.shared * 2) {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.shared = self.known.len();
        }
        let new: Arc<str> = text.into();
        self.known.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_held_once_and_only_while_it_is_shared() {
        let mut texts = Texts::default();
        let kept: Vec<Arc<str>> = (0..FEW).map(|number| texts.share(&number.to_string())).collect();
        assert!(Arc::ptr_eq(&kept[7], &texts.share("7")));
        for number in FEW..10 * FEW {
            texts.share(&number.to_string());
        }
        assert!(texts.known.len() <= 2 * FEW, "{}", texts.known.len());
        assert!(Arc::ptr_eq(&kept[7], &texts.share("7")));
    }
}

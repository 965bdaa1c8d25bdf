//! `spec.successPolicy`: when some indexes are enough (KEP-3998).
//!
//! Upstream: `pkg/controller/job/success_policy.go` (`matchSuccessPolicy`), v1.36.

use k8s_openapi::api::batch::v1::SuccessPolicy;

use super::index::{Index, IndexSet};

/// The first rule that the `succeeded` indexes fulfil.
pub fn fulfilled(policy: &SuccessPolicy, completions: Index, succeeded: &IndexSet) -> Option<usize> {
    if succeeded.is_empty() {
        return None;
    }
    policy.rules.iter().position(|rule| match (&rule.succeeded_indexes, rule.succeeded_count) {
        (Some(indexes), count) => {
            let wanted = IndexSet::parse(indexes, completions);
            let needed = count.unwrap_or(wanted.len());
            !wanted.is_empty() && wanted.overlap(succeeded) >= needed
        }
        (None, Some(count)) => succeeded.len() >= count,
        (None, None) => false,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::SuccessPolicyRule;

    use super::*;

    #[test]
    fn a_rule_asks_for_indexes_for_a_number_or_for_a_number_of_them() {
        let rule = |indexes: Option<&str>, count| {
            let rule = SuccessPolicyRule { succeeded_indexes: indexes.map(str::to_owned), succeeded_count: count };
            SuccessPolicy { rules: vec![rule] }
        };
        let succeeded = IndexSet::parse("0,2-3", 10);
        for (indexes, count, expected) in [
            (Some("0,2"), None, true),
            (Some("0-1"), None, false),
            (Some("0-1"), Some(1), true),
            (Some("1,4"), Some(1), false),
            (Some(""), None, false),
            (None, Some(3), true),
            (None, Some(4), false),
        ] {
            let got = fulfilled(&rule(indexes, count), 10, &succeeded).is_some();
            assert_eq!(got, expected, "{indexes:?} {count:?}");
        }
        assert_eq!(fulfilled(&rule(None, Some(0)), 10, &IndexSet::default()), None, "at least one has to succeed");
    }
}

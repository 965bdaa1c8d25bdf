//! `NAME = value`: the environment that a crontab sets for the lines below it.
//!
//! A value may be quoted as a whole, and one pair of quotes inside of quotes goes too; `NAME=` is no setting. Nothing is
//! expanded.
//! Upstream: cron's `env.c` (`load_env`). Blanks at the end of a quoted value stay, as `crontab(5)` says.

use super::Reason;

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) value: String,
}

/// What is set so far, in the order in which it was first set.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment(Vec<Setting>);

impl Environment {
    pub(super) fn set(&mut self, setting: Setting) {
        match self.0.iter_mut().find(|known| known.name == setting.name) {
            Some(known) => *known = setting,
            None => self.0.push(setting),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|known| known.name == name).map(|known| known.value.as_str())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter()
    }
}

impl Setting {
    /// Reads a line; `None` if it is an entry.
    pub(super) fn read(line: &str) -> Option<Result<Setting, Reason>> {
        let (name, rest) = name(line)?;
        let rest = rest.trim_start_matches(is_space).strip_prefix('=')?;
        let rest = rest.trim_start_matches(is_space);
        if rest.is_empty() {
            return Some(Err(Reason::NoValue(name.to_owned())));
        }
        let value = match rest.strip_prefix(['"', '\'']) {
            None => rest.trim_end_matches(is_space),
            Some(quoted) => {
                let (value, after) = quoted.split_once(&rest[..1])?;
                if !after.trim_start_matches(is_space).is_empty() {
                    return None;
                }
                value
            }
        };
        let inner = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        if name.is_empty() || !name.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Some(Err(Reason::VariableName(name.to_owned())));
        }
        Some(Ok(Setting { name: name.to_owned(), value: inner.unwrap_or(value).to_owned() }))
    }
}

/// The name before `=`, and what follows it; a name may be quoted.
fn name(line: &str) -> Option<(&str, &str)> {
    if let Some(quoted) = line.strip_prefix(['"', '\'']) {
        return quoted.split_once(&line[..1]).filter(|(name, _)| !name.contains('='));
    }
    let end = line.find(|c| is_space(c) || c == '=')?;
    Some(line.split_at(end))
}

/// C's `isspace`.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_cron_reads_them() {
        for (line, name, value) in [
            ("A=b", "A", "b"),
            ("A = b c  ", "A", "b c"),
            ("A\t=\tb", "A", "b"),
            ("A=\"\"", "A", ""),
            ("A=' b '", "A", " b "),
            ("A = \" # = b\"  ", "A", " # = b"),
            ("'A B'=c", "A B", "c"),
            ("\"A\" = c", "A", "c"),
            ("A='\"b\"'", "A", "b"),
            ("A=\"it's\"", "A", "it's"),
            ("A=b \"c\"", "A", "b \"c\""),
            ("PATH=$HOME/bin:/bin", "PATH", "$HOME/bin:/bin"),
            ("A=b=c", "A", "b=c"),
            ("5=6", "5", "6"),
        ] {
            let expected = Setting { name: name.to_owned(), value: value.to_owned() };
            assert_eq!(Setting::read(line), Some(Ok(expected)), "{line}");
        }
    }

    #[test]
    fn entries_are_no_settings() {
        for line in [
            "* * * * * A=b true",
            "@daily A=b",
            "0 3 * * * x",
            "A",
            "A=\"b\" c",
            "A=\"b",
            "'A=b",
            "'A=b'=c",
            "\"A\"b=c",
        ] {
            assert_eq!(Setting::read(line), None, "{line}");
        }
    }

    #[test]
    fn what_can_not_be_set_is_told() {
        assert_eq!(Setting::read("A="), Some(Err(Reason::NoValue("A".to_owned()))));
        assert_eq!(Setting::read("=b"), Some(Err(Reason::VariableName(String::new()))));
        assert_eq!(Setting::read("Ä=b"), Some(Err(Reason::VariableName("Ä".to_owned()))));
    }

    #[test]
    fn the_last_setting_of_a_name_counts() {
        let mut environment = Environment::default();
        for line in ["A=1", "B=2", "A=3"] {
            environment.set(Setting::read(line).unwrap().unwrap());
        }
        assert_eq!(environment.get("A"), Some("3"));
        assert_eq!(environment.iter().map(|setting| setting.name.as_str()).collect::<Vec<_>>(), ["A", "B"]);
    }
}

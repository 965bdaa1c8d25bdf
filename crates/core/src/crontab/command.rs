//! The command of an entry, and what it reads from standard input.
//!
//! Upstream: cron's `do_command.c` (`child_process`). The first `%` ends the command, and further ones are line feeds of
//! the input; `\%` is a percent sign, and before the first `%` `\\` is a backslash.

/// What a line runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// What the shell gets.
    pub(super) line: String,
    /// What the command reads; `None`: nothing.
    pub(super) stdin: Option<String>,
}

impl Command {
    pub(super) fn read(text: &str) -> Command {
        let mut line = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '%' => break,
                '\\' => match chars.next() {
                    Some(escaped @ ('%' | '\\')) => line.push(escaped),
                    Some(other) => line.extend(['\\', other]),
                    None => line.push('\\'),
                },
                other => line.push(other),
            }
        }
        Command { line, stdin: input(chars.as_str()) }
    }
}

fn input(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let mut input = String::with_capacity(text.len() + 1);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '%' => input.push('\n'),
            '\\' if chars.next_if_eq(&'%').is_some() => input.push('%'),
            other => input.push(other),
        }
    }
    if !input.ends_with('\n') {
        input.push('\n');
    }
    Some(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_what_cron_makes_of_them() {
        for (text, line, stdin) in [
            ("true", "true", None),
            ("mail -s x joe%Joe,%%Where are your kids?%", "mail -s x joe", Some("Joe,\n\nWhere are your kids?\n")),
            ("date +\\%F", "date +%F", None),
            ("date +\\%F%a\\%b\\c%d", "date +%F", Some("a%b\\c\nd\n")),
            ("cat%", "cat", None),
            ("cat%%", "cat", Some("\n")),
            ("cat%a\\", "cat", Some("a\\\n")),
            ("cat%a\\\\%b", "cat", Some("a\\%b\n")),
            ("a \\\\ b \\x \\", "a \\ b \\x \\", None),
            ("a \\\\% b", "a \\", Some(" b\n")),
        ] {
            let expected = Command { line: line.to_owned(), stdin: stdin.map(str::to_owned) };
            assert_eq!(Command::read(text), expected, "{text}");
        }
    }
}

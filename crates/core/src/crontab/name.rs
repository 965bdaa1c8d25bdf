//! Names of CronJobs, made from commands.
//!
//! What a shell line does is in the program of its first part that does something: `cd /srv && nice -n 5 ./backup.sh --all db`
//! is `backup-db`. The first line with a name has it as it is, others get letters that depend on the line alone.
//!
//! Invariant: names are unique within an import, fit a CronJob (52 characters of a DNS label), and stay the same as long as
//! the lines do.

use std::collections::BTreeSet;

/// The longest name of a CronJob, since the controller adds 11 characters for a Job's.
const LONGEST: usize = 52;
/// The longest that is made from words.
const LONGEST_WORDS: usize = 40;
const MOST_WORDS: usize = 3;

/// What leads to a command rather than being one.
const PREPARING: [&str; 18] = [
    "cd", "test", "[", "[[", ":", "true", "false", "set", "export", "unset", "umask", "ulimit", "source", ".", "sleep",
    "trap", "fi", "done",
];
/// What runs another command, with options of its own.
const RUNNERS: [&str; 20] = [
    "if", "then", "else", "elif", "while", "until", "do", "!", "time", "exec", "nice", "ionice", "chrt", "sudo", "env",
    "timeout", "nohup", "setsid", "chronic", "command",
];
/// What runs a file; alone it says nothing.
const INTERPRETERS: [&str; 10] = ["sh", "bash", "dash", "zsh", "perl", "python", "python3", "php", "ruby", "node"];

/// Names that are taken.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// A new name for this command; `line` is what tells it from others.
    pub(super) fn name(&mut self, command: &str, line: &[&str]) -> String {
        let words = words(command);
        let mut name = words.clone();
        let mut again = 0_u32;
        while !self.0.insert(name.clone()) {
            let suffix = if again == 0 { letters(line) } else { format!("{}-{again}", letters(line)) };
            name = format!("{words}-{suffix}");
            again += 1;
        }
        debug_assert!(name.len() <= LONGEST, "{name}");
        name
    }
}

/// The words of a name.
fn words(command: &str) -> String {
    let parts = parts(command);
    let telling = parts.iter().map(|part| telling(part)).find(|words| !words.is_empty());
    let words = telling.or_else(|| parts.first().map(|part| part.iter().map(|word| short(word)).collect()));
    let mut name = String::new();
    for word in words.unwrap_or_default().iter().map(|word| slug(word)).filter(|word| !word.is_empty()).take(MOST_WORDS)
    {
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(&word);
    }
    name.truncate(LONGEST_WORDS);
    let name = name.trim_end_matches('-');
    if name.is_empty() { "cron".to_owned() } else { name.to_owned() }
}

/// The words of a part of the line that say what it does; none if it only prepares.
fn telling(part: &[String]) -> Vec<&str> {
    let mut words = part.iter().map(String::as_str).peekable();
    loop {
        let is_variable = |word: &&str| word.split_once('=').is_some_and(|(name, _)| !name.contains(['/', '-', '.']));
        if words.next_if(is_variable).is_some() {
            continue;
        }
        if words.next_if(|word| RUNNERS.contains(word)).is_some() {
            // Its options and their values, like `-n 19` or `5m`.
            while words
                .next_if(|word| word.starts_with(['-', '+']) || word.starts_with(|c: char| c.is_ascii_digit()))
                .is_some()
            {}
            continue;
        }
        if words.next_if(|word| short(word) == "flock").is_some() {
            while words.next_if(|word| word.starts_with('-')).is_some() {}
            words.next(); // the file that is locked
            continue;
        }
        break;
    }
    let words: Vec<&str> = words.filter(|word| !word.starts_with(['-', '+'])).map(short).collect();
    let says_nothing = match words.as_slice() {
        [] => true,
        [first] => PREPARING.contains(first) || INTERPRETERS.contains(first),
        [first, ..] => PREPARING.contains(first),
    };
    if says_nothing { Vec::new() } else { words }
}

/// The last part of a path, without what says how it is written.
fn short(word: &str) -> &str {
    let last = word.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let endings = [".sh", ".bash", ".py", ".pl", ".php", ".rb", ".js"];
    endings.iter().find_map(|ending| last.strip_suffix(ending)).filter(|left| !left.is_empty()).unwrap_or(last)
}

/// As a part of a DNS label.
fn slug(word: &str) -> String {
    let mut slug = String::new();
    for c in word.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(slug.trim_end_matches('-').len());
    slug
}

/// The parts of a shell line, as words: what stands between `;`, `&`, `|` and brackets. Redirections and quoted sentences
/// are left out. No shell would agree in every case; it is about names.
fn parts(command: &str) -> Vec<Vec<String>> {
    let mut parts = vec![Vec::new()];
    let mut word = String::new();
    let mut redirected = false;
    let end_word = |word: &mut String, redirected: &mut bool, parts: &mut Vec<Vec<String>>| {
        let word = std::mem::take(word);
        let is_target = !word.is_empty() && std::mem::take(redirected);
        if !word.is_empty() && !is_target && !word.contains([' ', '\t']) {
            parts.last_mut().expect("there is always a part").push(word);
        }
    };
    let mut chars = command.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => word.extend(chars.by_ref().take_while(|inner| *inner != c)),
            '\\' => word.extend(chars.next()),
            ' ' | '\t' => end_word(&mut word, &mut redirected, &mut parts),
            '>' | '<' => {
                if word.bytes().all(|byte| byte.is_ascii_digit()) {
                    word.clear(); // which descriptor
                }
                end_word(&mut word, &mut redirected, &mut parts);
                while chars.next_if(|next| matches!(next, '>' | '<' | '&' | '|')).is_some() {}
                redirected = true;
            }
            ';' | '&' | '|' | '(' | ')' | '{' | '}' | '`' | '\n' => {
                end_word(&mut word, &mut redirected, &mut parts);
                redirected = false;
                parts.push(Vec::new());
            }
            other => word.push(other),
        }
    }
    end_word(&mut word, &mut redirected, &mut parts);
    parts.retain(|part| !part.is_empty());
    parts
}

/// Eight letters and digits that depend on these texts alone (FNV-1a).
fn letters(texts: &[&str]) -> String {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::dns_label;

    #[test]
    fn a_name_tells_what_the_line_does() {
        for (command, name) in [
            ("/usr/local/bin/backup.sh", "backup"),
            ("cd /srv && nice -n 5 ./backup.sh --all db", "backup-db"),
            ("cd / && run-parts --report /etc/cron.hourly", "run-parts-cron-hourly"),
            ("test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }", "run-parts-cron-daily"),
            (
                "[ -x /usr/lib/php/sessionclean ] && if [ ! -d /run/systemd/system ]; then /usr/lib/php/sessionclean; fi",
                "sessionclean",
            ),
            ("test -e /run/systemd/system || SERVICE_MODE=1 /sbin/e2scrub_all -A -r", "e2scrub-all"),
            (
                "test -x /usr/bin/certbot -a \\! -d /run/systemd/system && perl -e 'sleep int(rand(43200))' && certbot -q renew",
                "certbot-renew",
            ),
            ("command -v debian-sa1 > /dev/null && debian-sa1 1 1", "debian-sa1"),
            ("php -f /var/www/nextcloud/cron.php", "php-cron"),
            ("mysqldump --all-databases | gzip > /backup/all.sql.gz 2>&1", "mysqldump"),
            ("flock -n /run/lock/x timeout 5m rsync -a /data/ nas:/data", "rsync-data-data"),
            ("echo \"run 23 minutes after midnight\"", "echo"),
            ("/opt/Überwachung/Prüfen", "pr-fen"),
            ("$HOME/bin/daily.job >> $HOME/tmp/out 2>&1", "daily-job"),
            ("cd /srv", "cd-srv"),
            ("", "cron"),
            ("'", "cron"),
            ("***", "cron"),
        ] {
            assert_eq!(words(command), name, "{command}");
        }
    }

    #[test]
    fn names_do_not_depend_on_the_lines_that_follow() {
        let mut names = Names::default();
        assert_eq!(names.name("backup", &["root", "0 3 * * *"]), "backup");
        let second = names.name("backup", &["root", "0 4 * * *"]);
        assert!(second.starts_with("backup-") && second.len() == 15, "{second}");
        assert_eq!(names.name("backup", &["root", "0 4 * * *"]), format!("{second}-1"));
        let mut others = Names::default();
        others.name("/bin/backup --now", &["x"]);
        others.name("backup", &["y"]);
        assert_eq!(others.name("backup", &["root", "0 4 * * *"]), second);
    }

    proptest! {
        #[test]
        fn every_command_has_a_name_that_fits(command in "\\PC{0,80}", ascii in "[ -~]{0,120}") {
            let mut names = Names::default();
            for command in [&command, &ascii, &command, &command] {
                let name = names.name(command, &[command]);
                prop_assert!(dns_label(&name).is_empty() && name.len() <= LONGEST, "{}: {}", command, name);
            }
            prop_assert_eq!(names.0.len(), 4);
        }
    }
}

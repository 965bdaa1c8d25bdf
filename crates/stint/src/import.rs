//! `stint import crontab`: CronJobs for what this machine's cron runs.
//!
//! Invariant: nothing is changed but what `--output` names, and every line that is left out is told.
//! What crontabs mean is in `core::crontab`; here they are found and read.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use jiff::Timestamp;
use stint_core::crontab::{self, Account, Crontab, Import, Imported, Machine, Owner, What, Wishes};
use stint_core::schedule::zone;
use stint_image::User;

use crate::args::CrontabArgs;
use crate::exit::Exit;
use crate::zones;

/// Bytes that a crontab may have.
const LARGEST: u64 = 1 << 20;
/// Where crontabs of users are: on Debian, and elsewhere.
const SPOOLS: [&str; 2] = ["var/spool/cron/crontabs", "var/spool/cron"];

/// Prints or writes the CronJobs, and tells what is left out.
pub fn main(args: &CrontabArgs) -> anyhow::Result<Exit> {
    zones::settle();
    let host = Host::at(Path::new("/"));
    let found = host.crontabs(args)?;
    let zone = args.tz.clone().or_else(|| zones::name_at(&host.root));
    if let Some(name) = zone.as_deref().filter(|name| !zone::is_zone(name)) {
        bail!("unknown time zone {name}");
    }
    if zone.is_none() {
        eprintln!(
            "note: /etc/localtime says what this machine's time zone is, but not its name: the schedules are in the zone \
             of whoever runs them, unless --tz names one"
        );
    }
    let account = |name: &str| host.account(name);
    let machine = Machine { zone: zone.as_deref(), account: &account, now: Timestamp::now() };
    let crontabs: Vec<Crontab<'_>> = found.iter().map(Found::crontab).collect();
    let import = crontab::import(&crontabs, &machine, &Wishes { image: &args.image, keep: &args.keep });
    match &args.output {
        None => print(&import.cron_jobs)?,
        Some(folder) => write(&import.cron_jobs, folder)?,
    }
    Ok(tell(&import, args.keep.is_empty()))
}

/// Says on stderr what there is to know.
fn tell(import: &Import, nothing_kept: bool) -> Exit {
    for remark in &import.remarks {
        eprintln!("{remark}");
    }
    let left_out = import.remarks.iter().filter(|remark| matches!(remark.what, What::LeftOut(_))).count();
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    eprintln!("{}, {} left out", count(import.cron_jobs.len(), "CronJob"), count(left_out, "line"));
    if nothing_kept && !import.cron_jobs.is_empty() {
        eprintln!(
            "note: their commands find this machine's files, and what they write is thrown away with the pod; --keep FOLDER \
             keeps what they write below a folder"
        );
    }
    if left_out == 0 { Exit::Done } else { Exit::Data }
}

fn print(cron_jobs: &[Imported]) -> anyhow::Result<()> {
    let manifests: Vec<String> = cron_jobs.iter().map(Imported::yaml).collect();
    let mut stdout = io::stdout().lock();
    stdout.write_all(manifests.join("---\n").as_bytes()).context("can't print")
}

fn write(cron_jobs: &[Imported], folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
    for cron_job in cron_jobs {
        let path = folder.join(&cron_job.name).with_extension("yaml");
        fs::write(&path, cron_job.yaml()).with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(())
}

/// The machine whose crontabs they are.
struct Host {
    root: PathBuf,
    passwd: String,
    group: String,
}

/// A crontab that was read.
#[derive(Debug)]
struct Found {
    origin: String,
    text: Vec<u8>,
    /// `None`: its lines name their users.
    user: Option<String>,
}

impl Found {
    fn crontab(&self) -> Crontab<'_> {
        let owner = self.user.as_deref().map_or(Owner::Column, Owner::User);
        Crontab { origin: &self.origin, text: &self.text, owner }
    }
}

impl Host {
    /// The one whose root filesystem is here.
    fn at(root: &Path) -> Host {
        // A machine without these files has no users.
        let table = |name: &str| String::from_utf8_lossy(&fs::read(root.join(name)).unwrap_or_default()).into_owned();
        Host { root: root.to_owned(), passwd: table("etc/passwd"), group: table("etc/group") }
    }

    fn account(&self, name: &str) -> Option<Account> {
        let user = User::known(&self.passwd, &self.group, name).filter(|user| user.name.as_deref() == Some(name))?;
        let groups = user.additional_gids.into_iter().filter(|gid| *gid != user.gid).collect();
        Some(Account { name: name.to_owned(), uid: user.uid, gid: user.gid, groups, home: user.home })
    }

    /// The name of the user who runs this.
    fn own_name(&self) -> anyhow::Result<String> {
        let uid = rustix::process::getuid().as_raw().to_string();
        let user = User::known(&self.passwd, &self.group, &uid).and_then(|user| user.name);
        user.ok_or_else(|| anyhow!("user {uid} is not in /etc/passwd: give --user or --system"))
    }

    /// The crontabs that are asked for.
    fn crontabs(&self, args: &CrontabArgs) -> anyhow::Result<Vec<Found>> {
        if let Some(file) = &args.file {
            let user = match (args.system, args.user.as_slice()) {
                (true, []) => None,
                (false, [user]) => Some(user.clone()),
                (false, []) if self.is_system(file) => None,
                (false, []) => Some(self.own_name()?),
                _ => bail!("a file is one crontab: give one --user, or --system, or neither"),
            };
            return Ok(vec![found(file, user)?]);
        }
        let mut all = if args.system { self.system()? } else { Vec::new() };
        if !args.system && args.user.is_empty() {
            all.push(self.of_user(&self.own_name()?)?);
        }
        for user in &args.user {
            all.push(self.of_user(user)?);
        }
        Ok(all)
    }

    fn is_system(&self, file: &Path) -> bool {
        let place = std::path::absolute(file).unwrap_or_default();
        place == self.root.join("etc/crontab") || place.parent() == Some(&self.root.join("etc/cron.d"))
    }

    fn of_user(&self, user: &str) -> anyhow::Result<Found> {
        if user.contains('/') || user.starts_with('.') {
            bail!("{user:?} is no name of a user");
        }
        let places = SPOOLS.map(|spool| self.root.join(spool).join(user));
        let file = places.iter().find(|place| place.is_file()).unwrap_or(&places[0]);
        found(file, Some(user.to_owned())).with_context(|| format!("there is no crontab of {user} to be read"))
    }

    /// `/etc/crontab` and `/etc/cron.d`, without the files that cron takes for none.
    fn system(&self) -> anyhow::Result<Vec<Found>> {
        let (main, folder) = (self.root.join("etc/crontab"), self.root.join("etc/cron.d"));
        let mut files = Vec::new();
        if main.exists() {
            files.push(main);
        }
        if folder.exists() {
            let what = || format!("can't read the folder {}", folder.display());
            let entries = fs::read_dir(&folder).with_context(what)?;
            let mut inside: Vec<PathBuf> =
                entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().with_context(what)?;
            inside.retain(|path| path.is_file() && is_crontab_name(path));
            inside.sort();
            files.append(&mut inside);
        }
        if files.is_empty() {
            bail!("there is neither /etc/crontab nor a file in /etc/cron.d");
        }
        files.iter().map(|file| found(file, None)).collect()
    }
}

/// Whether cron reads a file of this name in `/etc/cron.d`; what packages and editors leave behind has other names.
fn is_crontab_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(byte))
}

fn found(file: &Path, user: Option<String>) -> anyhow::Result<Found> {
    let is_stdin = file == Path::new("-");
    let origin = if is_stdin { "stdin".to_owned() } else { file.display().to_string() };
    let what = || format!("can't read {origin}");
    let reader: Box<dyn Read> =
        if is_stdin { Box::new(io::stdin().lock()) } else { Box::new(fs::File::open(file).with_context(what)?) };
    let mut text = Vec::new();
    reader.take(LARGEST + 1).read_to_end(&mut text).with_context(what)?;
    if text.len() as u64 > LARGEST {
        bail!("{origin} is larger than a crontab may be ({} MiB)", LARGEST >> 20);
    }
    Ok(Found { origin, text, user })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: CrontabArgs,
    }

    fn args(typed: &[&str]) -> CrontabArgs {
        Typed::parse_from(std::iter::once("crontab").chain(typed.iter().copied())).args
    }

    /// A machine with users and crontabs.
    fn host(root: &Path) -> Host {
        for folder in ["etc/cron.d", "var/spool/cron/crontabs"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for (file, text) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\npaul:x:1000:1001::/home/paul:/bin/sh\n"),
            ("etc/group", "adm:x:4:paul\npaul:x:1001:paul\nsudo:x:27:root,paul\n"),
            ("etc/crontab", "@daily root a\n"),
            ("etc/cron.d/php", "@daily root b\n"),
            ("etc/cron.d/php.dpkg-old", "@daily root c\n"),
            ("etc/cron.d/.placeholder", ""),
            ("var/spool/cron/crontabs/paul", "@daily d\n"),
            ("var/spool/cron/root", "@daily e\n"),
        ] {
            fs::write(root.join(file), text).unwrap();
        }
        Host::at(root)
    }

    #[test]
    fn crontabs_are_found_where_cron_finds_them() {
        let root = tempfile::tempdir().unwrap();
        let host = host(root.path());
        let found = |typed: &[&str]| {
            let all = host.crontabs(&args(typed)).unwrap();
            let told = |found: &Found| {
                let place = found.origin.strip_prefix(root.path().to_str().unwrap()).unwrap();
                format!("{} {}", found.user.as_deref().unwrap_or("?"), place)
            };
            all.iter().map(told).collect::<Vec<_>>()
        };
        assert_eq!(found(&["--system"]), ["? /etc/crontab", "? /etc/cron.d/php"]);
        assert_eq!(
            found(&["--user", "paul", "--user", "root"]),
            ["paul /var/spool/cron/crontabs/paul", "root /var/spool/cron/root"]
        );
        let all = ["? /etc/crontab", "? /etc/cron.d/php", "paul /var/spool/cron/crontabs/paul"];
        assert_eq!(found(&["--system", "--user", "paul"]), all);
        let file = root.path().join("etc/cron.d/php");
        assert_eq!(found(&[file.to_str().unwrap()]), ["? /etc/cron.d/php"]);
        let file = root.path().join("var/spool/cron/root");
        assert_eq!(found(&[file.to_str().unwrap(), "--user", "paul"]), ["paul /var/spool/cron/root"]);
        assert_eq!(found(&[file.to_str().unwrap(), "--system"]), ["? /var/spool/cron/root"]);
    }

    #[test]
    fn what_is_not_there_is_told() {
        let root = tempfile::tempdir().unwrap();
        let host = host(root.path());
        let told = |typed: &[&str]| format!("{:#}", host.crontabs(&args(typed)).unwrap_err());
        assert!(told(&["--user", "joe"]).contains("there is no crontab of joe"), "{}", told(&["--user", "joe"]));
        assert!(told(&["--user", "../root"]).contains("is no name of a user"));
        assert!(told(&["f", "--user", "a", "--system"]).contains("a file is one crontab"));
        assert!(told(&["/no/such"]).contains("can't read /no/such"));
    }

    #[test]
    fn users_have_the_groups_of_the_machine() {
        let root = tempfile::tempdir().unwrap();
        let host = host(root.path());
        let paul = Account {
            name: "paul".to_owned(),
            uid: 1000,
            gid: 1001,
            groups: vec![4, 27],
            home: "/home/paul".to_owned(),
        };
        assert_eq!(host.account("paul"), Some(paul));
        assert_eq!((host.account("0"), host.account("joe")), (None, None));
    }
}

//! Flags over environment over file over defaults, and where each value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use super::{Setting, Settings, Shape, TABLE, value};
use crate::folder;

/// The configuration file that is read if it is there.
pub const CONFIG_FILE: &str = "/etc/stint/stint.toml";

/// The data folder's name as a setting: it has a global flag of its own, and may stand in the file like the others.
const DATA: &str = "data";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A flag.
    Flag,
    /// A variable of the environment.
    Environment(String),
    /// A key of a file.
    File(PathBuf),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("command line"),
            Source::Environment(variable) => write!(f, "environment, {variable}"),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Default => f.write_str("default"),
        }
    }
}

/// Values with their sources, by name.
type Layer = BTreeMap<&'static str, (Vec<String>, Source)>;

/// What the command line and the environment say.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    said: Layer,
    /// The file named by `--config`.
    config: Option<PathBuf>,
}

/// Every setting, and where it came from.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The data folder.
    pub data: PathBuf,
    /// The values.
    pub settings: Settings,
    texts: Layer,
}

impl Flags {
    /// Reads the file, and settles every setting.
    pub fn resolve(&self) -> anyhow::Result<Resolved> {
        let file = match &self.config {
            Some(path) => {
                read_file(path)?.with_context(|| format!("there is no configuration file {}", path.display()))?
            }
            None => read_file(Path::new(CONFIG_FILE))?.unwrap_or_default(),
        };
        let mut texts = Layer::new();
        for setting in TABLE {
            let said = self.said.get(setting.name).or_else(|| file.get(setting.name)).cloned();
            let said = said.unwrap_or_else(|| (value::split(setting.default), Source::Default));
            texts.insert(setting.name, said);
        }
        let default = || (vec![folder::default_data().to_string_lossy().into_owned()], Source::Default);
        let data = self.said.get(DATA).or_else(|| file.get(DATA)).cloned().unwrap_or_else(default);
        let folder = PathBuf::from(data.0.join(","));
        // The daemon may outlive the folder that it was started in.
        let folder = std::path::absolute(&folder).with_context(|| format!("{:?} is no path", folder.display()))?;
        texts.insert(DATA, data);
        let settings =
            Settings::read(|name| texts[name].0.clone()).map_err(|(name, why)| wrong(name, &texts[name], &why))?;
        Ok(Resolved { data: folder, settings, texts })
    }
}

impl Resolved {
    /// Name, value as it would be typed, and source of every setting.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, String, &Source)> {
        self.texts.iter().map(|(name, (texts, source))| (*name, texts.join(","), source))
    }

    /// Name and value, as it would be typed, of every setting that says nothing about others than this daemon: a mirror's URL
    /// may hold a password.
    pub fn told(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.rows().filter(|(name, ..)| *name != "mirror").map(|(name, text, _)| (name, text))
    }

    /// Takes those of `next` that a running daemon can.
    pub fn take(&mut self, next: Resolved) {
        let mut texts = next.texts;
        for setting in TABLE.iter().filter(|setting| !setting.reloads) {
            texts.insert(setting.name, self.texts[setting.name].clone());
        }
        texts.insert(DATA, self.texts[DATA].clone());
        // Each was read before, alone or with others; settings do not depend on each other.
        if let Ok(settings) = Settings::read(|name| texts[name].0.clone()) {
            (self.settings, self.texts) = (settings, texts);
        }
    }

    /// The names of settings that differ in `other`.
    pub fn differing<'a>(&'a self, other: &'a Resolved) -> impl Iterator<Item = &'static str> + 'a {
        self.texts.iter().filter(|(name, (texts, _))| other.texts[*name].0 != *texts).map(|(name, _)| *name)
    }
}

fn wrong(name: &str, (texts, source): &(Vec<String>, Source), why: &str) -> anyhow::Error {
    anyhow::anyhow!("setting {name} ({source}) can't be {:?}: {why}", texts.join(","))
}

/// What a file says. None: there is no file.
fn read_file(path: &Path) -> anyhow::Result<Option<Layer>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("can't read the configuration file {}", path.display()))?,
    };
    of_file(&text, path).map(Some)
}

fn of_file(text: &str, path: &Path) -> anyhow::Result<Layer> {
    let table: toml::Table =
        text.parse().with_context(|| format!("the configuration file {} is not TOML", path.display()))?;
    let mut layer = Layer::new();
    for (key, value) in &table {
        let Some(name) = TABLE.iter().map(|setting| setting.name).chain([DATA]).find(|name| name == key) else {
            bail!("there is no setting {key} ({}){}", path.display(), suggestion(key));
        };
        let value = texts(value).with_context(|| {
            format!("setting {name} ({}) must be text, a number, true or false, or a list of them", path.display())
        })?;
        layer.insert(name, (value, Source::File(path.to_owned())));
    }
    Ok(layer)
}

/// A TOML value as it would be typed.
fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(flag) => Some(vec![flag.to_string()]),
        toml::Value::Array(values) => values.iter().map(|value| Some(texts(value)?.remove(0))).collect(),
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// The name that was probably meant.
fn suggestion(key: &str) -> String {
    let near = |name: &&str| strsim::damerau_levenshtein(name, &key.replace('_', "-").to_lowercase());
    let best = TABLE.iter().map(|setting| setting.name).chain([DATA]).min_by_key(near);
    match best.filter(|name| near(name) <= 1 + name.len() / 4) {
        Some(name) => format!("; did you mean {name}?"),
        None => "; `stint serve --help` lists them".to_owned(),
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .env("STINT_CONFIG")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(format!("The configuration file [default: {CONFIG_FILE} if it is there]"));
        TABLE.iter().fold(command.arg(file), |command, setting| command.arg(argument(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(setting: &'static Setting) -> Arg {
    let mut help = setting.help.trim().replace('\n', "");
    if !setting.default.is_empty() && setting.shape != Shape::Switch {
        help = format!("{help} [default: {}]", setting.default);
    }
    if setting.reloads {
        help += " [reloads]";
    }
    let check = setting.check;
    let checked = move |text: &str| check(&[text.to_owned()]).map(|()| text.to_owned());
    let arg = Arg::new(setting.name).long(setting.name).env(setting.variable()).help(help).value_parser(checked);
    match setting.shape {
        Shape::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL"),
        Shape::One(name) => arg.value_name(name),
        Shape::Many(name) => arg.value_name(name).action(ArgAction::Append).value_delimiter(','),
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let source = |name: &str, variable: String| match matches.value_source(name) {
            Some(ValueSource::EnvVariable) => Source::Environment(variable),
            _ => Source::Flag,
        };
        let mut said = Layer::new();
        for setting in TABLE {
            if let Some(values) = matches.get_many::<String>(setting.name) {
                said.insert(setting.name, (values.cloned().collect(), source(setting.name, setting.variable())));
            }
        }
        if let Ok(Some(data)) = matches.try_get_one::<PathBuf>(DATA) {
            said.insert(DATA, (vec![data.to_string_lossy().into_owned()], source(DATA, "STINT_DATA".to_owned())));
        }
        Ok(Flags { said, config: matches.get_one::<PathBuf>("config").cloned() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(typed: &[&str]) -> Flags {
        let command = Flags::augment_args(Command::new("serve"));
        Flags::from_arg_matches(&command.get_matches_from([&["serve"], typed].concat())).unwrap()
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("stint.toml");
        fs::write(&file, "listen = [\"127.0.0.1:1\", \"[::1]:2\"]\nlog-level = \"debug\"\nno-agent = true\n").unwrap();
        let resolved = flags(&["--config", file.to_str().unwrap(), "--log-level", "warn"]).resolve().unwrap();
        let rows: BTreeMap<_, _> = resolved.rows().map(|(name, text, source)| (name, (text, source.clone()))).collect();
        assert_eq!(rows["listen"], ("127.0.0.1:1,[::1]:2".to_owned(), Source::File(file.clone())));
        assert_eq!(rows["log-level"], ("warn".to_owned(), Source::Flag));
        assert_eq!(rows["no-agent"], ("true".to_owned(), Source::File(file)));
        assert_eq!(rows["shutdown-grace"], ("10s".to_owned(), Source::Default));
        assert_eq!(resolved.settings.listen.len(), 2);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
        let path = Path::new("/x.toml");
        let error = of_file("tls_sans = [\"a\"]", path).unwrap_err().to_string();
        assert_eq!(error, "there is no setting tls_sans (/x.toml); did you mean tls-san?");
        let error = of_file("frobnicate = 1", path).unwrap_err().to_string();
        assert!(error.ends_with("`stint serve --help` lists them"), "{error}");
        assert!(of_file("listen = {}", path).is_err());
    }

    #[test]
    fn a_wrong_value_is_told_with_its_source() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("stint.toml");
        fs::write(&file, "log-format = \"xml\"").unwrap();
        let error = flags(&["--config", file.to_str().unwrap()]).resolve().unwrap_err().to_string();
        assert_eq!(error, format!("setting log-format ({}) can't be \"xml\": give text or json", file.display()));
    }

    #[test]
    fn a_switch_may_be_bare_or_have_a_value() {
        assert!(flags(&["--no-agent"]).resolve().unwrap().settings.no_agent);
        assert!(!flags(&["--no-agent=false"]).resolve().unwrap().settings.no_agent);
        let resolved = flags(&["--tls-san", "a,b", "--tls-san", "c"]).resolve().unwrap();
        assert_eq!(resolved.settings.tls_san, ["a", "b", "c"]);
    }
}

//! The types that settings have, and how they are typed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use stint_core::pressure::{self, Grace, Level, Signal};
use stint_core::quantity;
use stint_network::Subnet;

use super::Mirror;

/// What a setting's values look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// True or false; as a flag alone, true.
    Switch,
    /// One value, shown as this in help.
    One(&'static str),
    /// Any number of values, with commas between them or given again.
    Many(&'static str),
}

/// A type that settings have.
pub trait Value: Sized {
    /// What its values look like.
    const SHAPE: Shape;
    /// Reads it. Without texts it is not set at all, and has no default either.
    fn read(texts: &[String]) -> Result<Self, String>;
}

/// The parts of a text that may hold several values.
pub(super) fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn one(texts: &[String]) -> Result<&str, String> {
    match texts {
        [text] => Ok(text),
        [] => Err("it needs a value".to_owned()),
        _ => Err("it takes one value".to_owned()),
    }
}

/// One of two words.
fn either<T>(texts: &[String], first: (&str, T), second: (&str, T)) -> Result<T, String> {
    match one(texts)? {
        word if word == first.0 => Ok(first.1),
        word if word == second.0 => Ok(second.1),
        _ => Err(format!("give {} or {}", first.0, second.0)),
    }
}

impl Value for bool {
    const SHAPE: Shape = Shape::Switch;

    fn read(texts: &[String]) -> Result<bool, String> {
        one(texts)?.parse().map_err(|_| "give true or false".to_owned())
    }
}

impl Value for Option<PathBuf> {
    const SHAPE: Shape = Shape::One("PATH");

    fn read(texts: &[String]) -> Result<Self, String> {
        if texts.is_empty() { Ok(None) } else { Ok(Some(PathBuf::from(one(texts)?))) }
    }
}

impl Value for Option<String> {
    const SHAPE: Shape = Shape::One("NAME");

    fn read(texts: &[String]) -> Result<Self, String> {
        if texts.is_empty() { Ok(None) } else { Ok(Some(one(texts)?.to_owned())) }
    }
}

impl Value for Vec<String> {
    const SHAPE: Shape = Shape::Many("NAME");

    fn read(texts: &[String]) -> Result<Self, String> {
        Ok(texts.to_vec())
    }
}

impl Value for Vec<SocketAddr> {
    const SHAPE: Shape = Shape::Many("ADDRESS:PORT");

    fn read(texts: &[String]) -> Result<Self, String> {
        if texts == ["none"] {
            return Ok(Vec::new());
        }
        let hint = "give an address and a port, like 127.0.0.1:6443 or [::1]:6443, or none";
        texts.iter().map(|text| text.parse().map_err(|_| hint.to_owned())).collect()
    }
}

impl Value for Vec<Mirror> {
    const SHAPE: Shape = Shape::Many("REGISTRY=URL");

    fn read(texts: &[String]) -> Result<Self, String> {
        let mirror = |text: &String| match text.split_once('=') {
            Some((registry, url)) if !registry.is_empty() && !url.is_empty() => {
                Ok(Mirror { registry: registry.to_owned(), url: url.to_owned() })
            }
            _ => Err("give REGISTRY=URL, like registry.example=http://127.0.0.1:5000".to_owned()),
        };
        texts.iter().map(mirror).collect()
    }
}

impl Value for u32 {
    const SHAPE: Shape = Shape::One("NUMBER");

    fn read(texts: &[String]) -> Result<Self, String> {
        one(texts)?.parse().map_err(|_| format!("give a whole number from 0 to {}", u32::MAX))
    }
}

/// Below which amounts a node is short of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels(pub Vec<(Signal, Level)>);

impl Value for Levels {
    const SHAPE: Shape = Shape::Many("SIGNAL<AMOUNT");

    fn read(texts: &[String]) -> Result<Self, String> {
        pressure::levels(texts).map(Levels)
    }
}

/// How much more has to be free before a node is no longer short of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaims(pub Vec<(Signal, Level)>);

impl Value for Reclaims {
    const SHAPE: Shape = Shape::Many("SIGNAL=AMOUNT");

    fn read(texts: &[String]) -> Result<Self, String> {
        pressure::reclaims(texts).map(Reclaims)
    }
}

/// For how long a node may be short of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graces(pub Vec<(Signal, Grace)>);

impl Value for Graces {
    const SHAPE: Shape = Shape::Many("SIGNAL=TIME");

    fn read(texts: &[String]) -> Result<Self, String> {
        pressure::graces(texts).map(Graces)
    }
}

/// A part of a whole, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u8);

impl Value for Percent {
    const SHAPE: Shape = Shape::One("PERCENT");

    fn read(texts: &[String]) -> Result<Self, String> {
        let number: Option<u8> = one(texts)?.trim_end_matches('%').parse().ok();
        number
            .filter(|percent| *percent <= 100)
            .map(Percent)
            .ok_or_else(|| "give a percentage from 0 to 100".to_owned())
    }
}

impl Value for NonZeroU32 {
    const SHAPE: Shape = Shape::One("NUMBER");

    fn read(texts: &[String]) -> Result<Self, String> {
        one(texts)?.parse().map_err(|_| format!("give a whole number from 1 to {}", u32::MAX))
    }
}

impl Value for Duration {
    const SHAPE: Shape = Shape::One("TIME");

    fn read(texts: &[String]) -> Result<Self, String> {
        let hint = "give a time like 90s, 5m or 1h30m";
        let parsed: SignedDuration = one(texts)?.parse().map_err(|_| hint.to_owned())?;
        Duration::try_from(parsed).map_err(|_| hint.to_owned())
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl Value for Size {
    const SHAPE: Shape = Shape::One("SIZE");

    fn read(texts: &[String]) -> Result<Size, String> {
        let size = quantity::parse(one(texts)?).ok().and_then(|size| u64::try_from(size.value()).ok());
        size.filter(|size| *size > 0)
            .map(Size)
            .ok_or_else(|| "give a number of bytes like 500k, 10Mi or 1Gi".to_owned())
    }
}

/// How many files of a log there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFiles(pub u32);

impl Value for LogFiles {
    const SHAPE: Shape = Shape::One("NUMBER");

    fn read(texts: &[String]) -> Result<LogFiles, String> {
        let count = one(texts)?.parse().ok().filter(|count| *count >= 2);
        count
            .map(LogFiles)
            .ok_or_else(|| "give a whole number from 2: one is full while the next is written".to_owned())
    }
}

/// How long a ServiceAccount token may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLife(pub Duration);

impl Value for TokenLife {
    const SHAPE: Shape = Shape::One("TIME");

    fn read(texts: &[String]) -> Result<Self, String> {
        let life = Duration::read(texts)?;
        // Upstream's bounds.
        let sensible = Duration::from_hours(1)..=Duration::from_secs(1 << 32);
        if sensible.contains(&life) {
            Ok(TokenLife(life))
        } else {
            Err("give a time from 1h to 2^32 seconds".to_owned())
        }
    }
}

/// Which controllers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is a name of its own
pub struct Controllers {
    /// Those of Jobs.
    pub jobs: bool,
    /// That of CronJobs.
    pub cronjobs: bool,
    /// What binds waiting pods to this node.
    pub bind: bool,
    /// Garbage collection, namespaces, service accounts.
    pub housekeeping: bool,
}

impl Value for Controllers {
    const SHAPE: Shape = Shape::Many("NAME");

    fn read(texts: &[String]) -> Result<Self, String> {
        let names: BTreeSet<&str> = texts.iter().map(String::as_str).collect();
        let known = ["all", "none", "jobs", "cronjobs", "bind", "housekeeping"];
        if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
            return Err(format!(
                "there is no controller {unknown}: give all, none, or some of jobs, cronjobs, bind, housekeeping"
            ));
        }
        if names.len() > 1 && (names.contains("all") || names.contains("none")) {
            return Err("all and none stand alone".to_owned());
        }
        let has = |name| names.contains("all") || names.contains(name);
        Ok(Controllers {
            jobs: has("jobs"),
            cronjobs: has("cronjobs"),
            bind: has("bind"),
            housekeeping: has("housekeeping"),
        })
    }
}

impl Value for Option<Subnet> {
    const SHAPE: Shape = Shape::One("CIDR");

    fn read(texts: &[String]) -> Result<Self, String> {
        if texts.is_empty() { Ok(None) } else { one(texts)?.parse().map(Some) }
    }
}

/// A folder by its whole path: the daemon may outlive the folder that it was started in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(pub PathBuf);

impl Value for Folder {
    const SHAPE: Shape = Shape::One("FOLDER");

    fn read(texts: &[String]) -> Result<Self, String> {
        whole(one(texts)?).map(Folder)
    }
}

/// Folders that are looked through in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchPath(pub Vec<PathBuf>);

impl Value for SearchPath {
    const SHAPE: Shape = Shape::Many("FOLDER");

    fn read(texts: &[String]) -> Result<Self, String> {
        texts.iter().map(|text| whole(text)).collect::<Result<_, _>>().map(SearchPath)
    }
}

fn whole(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') { Ok(PathBuf::from(text)) } else { Err("give a folder by its whole path".to_owned()) }
}

/// The network that pods are on, unless they ask for this machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// Each on its own, on a bridge of Stint's own.
    Own,
    /// Each on its own, by CNI plugins.
    Cni,
    /// All on this machine's.
    Host,
    /// By CNI plugins where there is a configuration of them, else on Stint's own.
    Auto,
}

impl Value for NetworkKind {
    const SHAPE: Shape = Shape::One("NETWORK");

    fn read(texts: &[String]) -> Result<Self, String> {
        match one(texts)? {
            "own" => Ok(NetworkKind::Own),
            "cni" => Ok(NetworkKind::Cni),
            "host" => Ok(NetworkKind::Host),
            "auto" => Ok(NetworkKind::Auto),
            _ => Err("give own, cni, host or auto".to_owned()),
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Value for LogFormat {
    const SHAPE: Shape = Shape::One("FORMAT");

    fn read(texts: &[String]) -> Result<Self, String> {
        either(texts, ("text", LogFormat::Text), ("json", LogFormat::Json))
    }
}

/// What is logged: everything at least as grave as this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevel(pub tracing::Level);

impl Value for LogLevel {
    const SHAPE: Shape = Shape::One("LEVEL");

    fn read(texts: &[String]) -> Result<Self, String> {
        // By name only: tracing also takes numbers, which nobody could guess the order of.
        let name = one(texts)?;
        let named = name.bytes().all(|b| b.is_ascii_lowercase()).then(|| name.parse().ok()).flatten();
        named.map(LogLevel).ok_or_else(|| "give error, warn, info, debug or trace".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_told_with_what_would_be_right() {
        let texts = |text: &str| vec![text.to_owned()];
        assert!(Vec::<SocketAddr>::read(&texts("localhost")).unwrap_err().contains("127.0.0.1:6443"));
        assert!(bool::read(&texts("yes")).unwrap_err().contains("true or false"));
        assert!(LogLevel::read(&texts("3")).unwrap_err().contains("debug"));
        assert!(Controllers::read(&texts("job")).unwrap_err().contains("jobs"));
        assert!(Controllers::read(&["all".to_owned(), "jobs".to_owned()]).is_err());
        assert!(Duration::read(&texts("-1s")).is_err());
        assert!(u32::read(&texts("-1")).unwrap_err().contains("whole number"));
        assert!(Percent::read(&texts("101")).unwrap_err().contains("0 to 100"));
        assert_eq!(Percent::read(&texts("85%")), Ok(Percent(85)));
        assert!(TokenLife::read(&texts("10m")).unwrap_err().contains("1h"));
        assert!(
            Size::read(&texts("0")).is_err() && Size::read(&texts("-1Mi")).is_err() && Size::read(&texts("x")).is_err()
        );
        assert_eq!(Size::read(&texts("10Mi")), Ok(Size(10 << 20)));
        assert!(LogFiles::read(&texts("1")).unwrap_err().contains("from 2"));
        assert!(NetworkKind::read(&texts("bridge")).unwrap_err().contains("cni"));
        assert!(SearchPath::read(&["/a".to_owned(), "b".to_owned()]).unwrap_err().contains("whole path"));
        assert!(Vec::<Mirror>::read(&texts("x")).is_err());
    }

    #[test]
    fn some_controllers_can_be_chosen() {
        let read = |text: &str| Controllers::read(&split(text)).unwrap();
        assert_eq!(read("none"), Controllers { jobs: false, cronjobs: false, bind: false, housekeeping: false });
        assert_eq!(read("all"), Controllers { jobs: true, cronjobs: true, bind: true, housekeeping: true });
        assert_eq!(read("jobs,bind"), Controllers { jobs: true, cronjobs: false, bind: true, housekeeping: false });
    }
}

//! `stint image`: the images on this machine.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use indicatif::{HumanBytes, HumanDuration};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use stint_core::pressure::{ImagePolicy, ImageUse};
use stint_image::{Image, ImageStore, Import, LayerState, Progress, Reference, Removed, Source, Usage};

use crate::args::{Format, ImageCommand};
use crate::embedded;
use crate::exit::Exit;
use crate::rootless;
use crate::run::{Screen, Style};
use crate::settings::signed;

/// Does what `command` says.
pub fn main(data: &Path, command: &ImageCommand) -> anyhow::Result<Exit> {
    // What layers hold belongs to more users than one.
    let _member = rootless::enter(data)?;
    let store = embedded::images(data)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("can't start the async runtime")?.block_on(run(&store, command))
}

async fn run(store: &ImageStore, command: &ImageCommand) -> anyhow::Result<Exit> {
    let screen = Screen::new(Style { quiet: false, prefix: false, objects_on_stdout: false });
    let progress = Shown { screen: &screen, told: Mutex::default() };
    match command {
        ImageCommand::Import { path, name } => {
            let source = if path == Path::new("-") {
                Source::Reader(Box::new(std::io::stdin()))
            } else {
                Source::Path(path.clone())
            };
            let name = name.as_deref().map(parse).transpose()?;
            let images = store.import(source, &Import { name, ..Import::default() }, &progress).await;
            let images = images.with_context(|| format!("can't import {}", path.display()))?;
            screen.clear();
            print(images.iter().map(|image| image.reference.familiar()))?;
        }
        ImageCommand::Ls { output } => {
            let listed = Listed::read(store).context("can't list the images")?;
            match output {
                None => print(listed.table(SystemTime::now()))?,
                Some(Format::Json) => print_json(&listed.objects())?,
            }
        }
        ImageCommand::Prune { unused_for, dry_run, output } => {
            let images = store.usage().context("can't tell which images are used")?;
            let chosen = unused(&images, unused_for.map(signed), Timestamp::now());
            let mut gone = Vec::new();
            for image in chosen {
                let removed = if *dry_run {
                    Some(Removed { references: image.references.clone(), bytes: image.size, ..Removed::default() })
                } else {
                    store.remove_unused(&image.digest).with_context(|| format!("can't remove {}", image.digest))?
                };
                // Whoever has begun to use it meanwhile keeps it.
                gone.extend(removed.map(|removed| (image, removed)));
            }
            match output {
                Some(Format::Json) => {
                    print_json(&gone.iter().map(|(image, removed)| pruned(image, removed)).collect())?;
                }
                None => {
                    print(gone.iter().flat_map(|(_, removed)| removed.references.iter().map(Reference::familiar)))?;
                    let bytes = HumanBytes(gone.iter().map(|(_, removed)| removed.bytes).sum());
                    // Layers that images share are counted with each of them as long as they are there.
                    let (would, most) = if *dry_run { ("would remove", "at most ") } else { ("removed", "") };
                    screen.say(&format!("{would} {} images, {most}{bytes}", gone.len()));
                }
            }
        }
        ImageCommand::Rm { images } => {
            for name in images {
                let reference = parse(name)?;
                let removed = store.remove(&reference).with_context(|| format!("can't remove {name}"))?;
                if removed.references.is_empty() {
                    anyhow::bail!("there is no image {name} here; `stint image ls` lists those there are");
                }
                screen.say(&format!("{name}: removed {} layers, {}", removed.layers, HumanBytes(removed.bytes)));
                if removed.held > 0 {
                    screen.say(&format!("{name}: {} layers stay as long as containers use them", removed.held));
                }
            }
        }
        ImageCommand::Pull { images, registry } => {
            let access = embedded::access(registry);
            for name in images {
                let image = store.pull(&parse(name)?, &access, &progress).await?;
                screen.clear();
                print([image.repo_digest().to_string()])?;
            }
        }
    }
    Ok(Exit::Done)
}

fn parse(name: &str) -> anyhow::Result<Reference> {
    name.parse().with_context(|| format!("{name:?} is not an image's name"))
}

/// Images by name, with the use of each.
struct Listed {
    images: Vec<Image>,
    usage: HashMap<String, Usage>,
}

impl Listed {
    fn read(store: &ImageStore) -> Result<Listed, stint_image::Error> {
        let usage = store.usage()?.into_iter().map(|usage| (usage.digest.to_string(), usage)).collect();
        Ok(Listed { images: store.list()?, usage })
    }

    fn usage(&self, image: &Image) -> Option<&Usage> {
        self.usage.get(image.digest.as_str())
    }

    fn table(&self, now: SystemTime) -> Vec<String> {
        let rows = self.images.iter().map(|image| {
            let id: String = image.id.to_string().trim_start_matches("sha256:").chars().take(12).collect();
            let used = self.usage(image).map_or_else(String::new, |usage| last_used(usage, now));
            [image.reference.familiar(), id, HumanBytes(image.size).to_string(), used]
        });
        let rows: Vec<_> = [["IMAGE", "ID", "SIZE", "USED"].map(str::to_owned)].into_iter().chain(rows).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let (name, id, size) = (width(0), width(1), width(2));
        rows.iter().map(|row| format!("{:name$}  {:id$}  {:size$}  {}", row[0], row[1], row[2], row[3])).collect()
    }

    fn objects(&self) -> Value {
        let object = |image: &Image| {
            let usage = self.usage(image);
            json!({
                "name": image.reference.to_string(),
                "id": image.id.to_string(),
                "digest": image.repo_digest().to_string(),
                "platform": image.platform.to_string(),
                "created": image.created,
                "size": image.size,
                "cameAt": usage.and_then(|usage| time(usage.came)),
                "lastUsedAt": usage.and_then(|usage| time(usage.last_used)),
                "users": usage.map_or(0, |usage| usage.owners.len()),
            })
        };
        self.images.iter().map(object).collect()
    }
}

fn last_used(usage: &Usage, now: SystemTime) -> String {
    if !usage.owners.is_empty() {
        return "now".to_owned();
    }
    let ago = now.duration_since(usage.last_used).unwrap_or(Duration::ZERO);
    format!("{} ago", HumanDuration(ago))
}

fn time(at: SystemTime) -> Option<String> {
    Timestamp::try_from(at).ok().and_then(|at| Timestamp::from_second(at.as_second()).ok()).map(|at| at.to_string())
}

/// The images that nobody uses, or has used for some time, the longest unused first.
fn unused(images: &[Usage], unused_for: Option<SignedDuration>, now: Timestamp) -> Vec<&Usage> {
    let at = |time: SystemTime| Timestamp::try_from(time).unwrap_or(now).min(now);
    let uses: Vec<ImageUse> = images
        .iter()
        .map(|image| ImageUse {
            id: image.digest.to_string(),
            is_used: !image.owners.is_empty(),
            came: at(image.came),
            last_used: at(image.last_used),
        })
        .collect();
    let policy = ImagePolicy { min_age: SignedDuration::ZERO, max_age: unused_for, ..ImagePolicy::default() };
    let chosen = if unused_for.is_some() { policy.outdated(&uses, now) } else { policy.order(&uses, now) };
    chosen.into_iter().filter_map(|chosen| images.iter().find(|image| image.digest.as_str() == chosen.id)).collect()
}

fn pruned(image: &Usage, removed: &Removed) -> Value {
    let names: Vec<String> = removed.references.iter().map(ToString::to_string).collect();
    json!({ "digest": image.digest.to_string(), "names": names, "bytes": removed.bytes })
}

fn print_json(objects: &Value) -> anyhow::Result<()> {
    print([serde_json::to_string_pretty(objects).context("can't write JSON")?])
}

fn print(lines: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    for line in lines {
        writeln!(stdout, "{line}").context("can't print")?;
    }
    Ok(())
}

/// Shows layers on a terminal as bars, in a pipe as one line each when they are there.
struct Shown<'a> {
    screen: &'a Screen,
    told: Mutex<Vec<String>>,
}

impl Progress for Shown<'_> {
    fn layer(&self, digest: &str, state: LayerState) {
        match state {
            LayerState::Waiting => {}
            LayerState::Downloading { done, total } => self.screen.layer(digest, done, total),
            LayerState::Unpacking => self.screen.layer(digest, 1, 1),
            LayerState::Done | LayerState::Cached => {
                self.screen.layer(digest, 1, 1);
                let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if !told.iter().any(|known| known == digest) {
                    told.push(digest.to_owned());
                    if !std::io::stderr().is_terminal() {
                        self.screen.say(&format!("{digest} {state:?}").to_lowercase());
                    }
                }
            }
        }
    }
}

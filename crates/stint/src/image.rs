//! `stint image`: the images on this machine.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context;
use indicatif::HumanBytes;
use stint_image::{Image, ImageStore, Import, LayerState, Progress, Reference, Source};

use crate::args::ImageCommand;
use crate::embedded;
use crate::exit::Exit;
use crate::run::{Screen, Style};

/// Does what `command` says.
pub fn main(data: &Path, command: &ImageCommand) -> anyhow::Result<Exit> {
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
        ImageCommand::Ls => print(table(&store.list().context("can't list the images")?))?,
        ImageCommand::Rm { images } => {
            for name in images {
                let reference = parse(name)?;
                let removed = store.remove(&reference).with_context(|| format!("can't remove {name}"))?;
                if removed.references.is_empty() {
                    anyhow::bail!("there is no image {name} here; `stint image ls` lists those there are");
                }
                screen.say(&format!("{name}: removed {} layers, {}", removed.layers, HumanBytes(removed.bytes)));
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

fn table(images: &[Image]) -> Vec<String> {
    let rows = images.iter().map(|image| {
        let id: String = image.id.to_string().trim_start_matches("sha256:").chars().take(12).collect();
        (image.reference.familiar(), id, HumanBytes(image.size).to_string())
    });
    let rows: Vec<_> = [("IMAGE".to_owned(), "ID".to_owned(), "SIZE".to_owned())].into_iter().chain(rows).collect();
    let width = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
    rows.into_iter().map(|(name, id, size)| format!("{name:width$}  {id:12}  {size}")).collect()
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

//! `stint config`: the settings as `stint serve` would take them, each with where it came from.

use std::io::Write;

use anyhow::Context;

use crate::exit::Exit;
use crate::settings::{Flags, Shape, named};

/// Prints them as a configuration file with comments.
pub fn main(flags: &Flags) -> anyhow::Result<Exit> {
    let resolved = flags.resolve()?;
    let rows: Vec<(String, String)> = resolved
        .rows()
        .map(|(name, text, source)| {
            let text = match named(name).map(|setting| setting.shape) {
                Some(Shape::Switch) => text,
                Some(Shape::Many(_)) => {
                    let parts: Vec<String> = text.split(',').filter(|part| !part.is_empty()).map(quoted).collect();
                    format!("[{}]", parts.join(", "))
                }
                _ => quoted(&text),
            };
            // What is not set has no value that could stand in a file.
            let unset = text == "\"\"" || text == "[]";
            (format!("{}{name} = {text}", if unset { "# " } else { "" }), source.to_string())
        })
        .collect();
    let width = rows.iter().map(|(line, _)| line.len()).max().unwrap_or(0).min(50);
    let mut stdout = std::io::stdout().lock();
    for (line, source) in rows {
        writeln!(stdout, "{line:width$}  # {source}").context("can't print")?;
    }
    Ok(Exit::Done)
}

/// A text as TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

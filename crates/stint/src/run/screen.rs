//! What a person sees of a run: what the containers print on stdout, everything else on stderr.
//!
//! Invariant: stdout holds the containers' bytes and nothing else (with `--output json` the Jobs and nothing else).
//! A terminal gets live lines, a pipe gets plain ones, `--quiet` gets none.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Which stream of a container some output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Its standard output.
    Out,
    /// Its standard error.
    Err,
}

/// How a run is shown.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// No progress and no outcome.
    pub quiet: bool,
    /// The source's name before each line.
    pub prefix: bool,
    /// What the containers print goes to stderr, since stdout is for objects.
    pub objects_on_stdout: bool,
}

/// The screen.
#[derive(Debug)]
pub struct Screen {
    style: Style,
    live: Option<MultiProgress>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// With prefixes, only whole lines are printed: the beginnings of lines that are not whole yet.
    unfinished: HashMap<(String, bool), Vec<u8>>,
    jobs: BTreeMap<String, ProgressBar>,
    layers: BTreeMap<String, ProgressBar>,
    stdout_closed: bool,
}

impl Screen {
    /// A screen on this process's stdout and stderr.
    pub fn new(style: Style) -> Screen {
        let live = !style.quiet && io::stderr().is_terminal();
        Screen {
            style,
            live: live.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10))),
            state: Mutex::new(State::default()),
        }
    }

    /// Shows bytes that the container `source` wrote to `stream`.
    pub fn output(&self, source: &str, stream: Stream, bytes: &[u8]) {
        let mut state = self.state();
        if !self.style.prefix {
            return self.write(&mut state, stream, bytes);
        }
        let key = (source.to_owned(), stream == Stream::Out);
        let mut pending = state.unfinished.remove(&key).unwrap_or_default();
        pending.extend_from_slice(bytes);
        let whole = pending.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let rest = pending.split_off(whole);
        let mut text = Vec::with_capacity(pending.len() + 64);
        for line in pending.split_inclusive(|b| *b == b'\n') {
            text.extend_from_slice(format!("[{source}] ").as_bytes());
            text.extend_from_slice(line);
        }
        if !rest.is_empty() {
            state.unfinished.insert(key, rest);
        }
        if !text.is_empty() {
            self.write(&mut state, stream, &text);
        }
    }

    /// The container `source` has ended: what it left without a newline is shown, with one.
    pub fn output_ends(&self, source: &str) {
        if self.style.prefix {
            for stream in [Stream::Out, Stream::Err] {
                let left = self.state().unfinished.contains_key(&(source.to_owned(), stream == Stream::Out));
                if left {
                    self.output(source, stream, b"\n");
                }
            }
        }
    }

    /// Says something worth a line that stays, unless the user wants quiet.
    pub fn say(&self, line: &str) {
        if !self.style.quiet {
            self.insist(line);
        }
    }

    /// Says something that must be heard.
    pub fn insist(&self, line: &str) {
        self.above(|| eprintln!("{line}"));
    }

    /// Says how a pod fares: a line in a pipe; on a terminal the Job's live line tells.
    pub fn pod(&self, line: &str) {
        if self.live.is_none() {
            self.say(line);
        }
    }

    /// Shows on a terminal where a Job stands.
    pub fn job(&self, job: &str, standing: String) {
        let Some(live) = &self.live else { return };
        let mut state = self.state();
        let bar = state.jobs.entry(job.to_owned()).or_insert_with(|| {
            let bar = ProgressBar::new_spinner().with_style(style("{spinner} job/{prefix} {msg} {elapsed}"));
            bar.enable_steady_tick(Duration::from_millis(100));
            live.add(bar).with_prefix(job.to_owned())
        });
        bar.set_message(standing);
    }

    /// A Job has ended: its live line goes.
    pub fn job_ends(&self, job: &str) {
        if let Some(bar) = self.state().jobs.remove(job) {
            bar.finish_and_clear();
        }
    }

    /// Shows on a terminal how far the download of a layer is. `done` of `total` bytes; ended when they are equal.
    pub fn layer(&self, digest: &str, done: u64, total: u64) {
        let Some(live) = &self.live else { return };
        let mut state = self.state();
        if done >= total {
            if let Some(bar) = state.layers.remove(digest) {
                bar.finish_and_clear();
            }
            return;
        }
        let bar = state.layers.entry(digest.to_owned()).or_insert_with(|| {
            let style = style("  {prefix:12} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}");
            let name: String = digest.trim_start_matches("sha256:").chars().take(12).collect();
            live.add(ProgressBar::new(total).with_style(style).with_prefix(name))
        });
        bar.set_length(total);
        bar.set_position(done);
    }

    /// Prints an object on stdout.
    pub fn object(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// Takes everything live off the terminal.
    pub fn clear(&self) {
        if let Some(live) = &self.live {
            // A terminal that is gone can't be cleared, and need not be.
            let _ = live.clear();
        }
    }

    fn write(&self, state: &mut State, stream: Stream, bytes: &[u8]) {
        let to_stdout = stream == Stream::Out && !self.style.objects_on_stdout;
        if to_stdout && state.stdout_closed {
            return;
        }
        let written = self.above(|| {
            if to_stdout {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush())
            } else {
                io::stderr().lock().write_all(bytes)
            }
        });
        // A reader that went away (`stint run … | head`) ends the output, not the Job.
        if written.is_err() && to_stdout {
            state.stdout_closed = true;
        }
    }

    /// Prints above the live lines.
    fn above<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.live {
            Some(live) => live.suspend(print),
            None => print(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The style that a template of ours describes.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

//! Writes `docs/jobs.md` to standard output, from the table of what is done with a Job; with `rows`, README's rows:
//!
//! ```text
//! cargo run -p stint-sim --example features > docs/jobs.md
//! ```

fn main() {
    let is_rows = std::env::args().nth(1).as_deref() == Some("rows");
    print!("{}", if is_rows { stint_sim::features::rows() } else { stint_sim::features::page() });
}

//! `cargo xtask check`: what a reviewer should not have to look for.

use std::fs;
use std::path::Path;

use crate::steps::{Cargo, Steps};
use crate::{Result, dropped, missing, schema, test, workspace};

pub(crate) const HELP: &str = "\
cargo xtask check: formatting, lints and documentation, with warnings denied

  1. every file is formatted (cargo fmt --check)
  2. every select! is biased (an unbiased one differs from run to run)
  3. the table of response shapes is what cargo xtask schema writes
  4. every public async call says what a drop leaves behind, and is dropped at every await by a test
  5. clippy on every target with default features
  6. clippy on the libraries without default features
  7. clippy on the protocol with each codec alone
  8. the documentation builds, private items included
";

/// The features that are codecs.
pub(crate) const CODECS: [&str; 4] = ["gzip", "snappy", "lz4", "zstd"];

/// Runs every check, also after one has failed.
pub(crate) fn run(steps: &mut Steps, cargo: &Cargo) -> Result<()> {
    missing::need_component("rustfmt", "rustfmt")?;
    missing::need_component("cargo-clippy", "clippy")?;
    steps.run("formatting", || {
        cargo.run(["fmt", "--all", "--check"], &[])?;
        cargo.run(["fmt", "--all", "--manifest-path", "bench/Cargo.toml", "--check"], &[])?;
        cargo.run(["fmt", "--all", "--manifest-path", "fuzz/Cargo.toml", "--check"], &[])
    });
    steps.run("every select! is biased", selects_are_biased);
    steps.run("the table of response shapes", schema::check);
    steps.run("the table of dropped futures", dropped::run);
    steps.run("clippy", || {
        let storms = ["--features", test::OPTIONAL];
        let arguments = ["clippy", "--workspace", "--all-targets", "--keep-going"].into_iter().chain(storms);
        cargo.run(arguments.chain(["--", "-D", "warnings"]), &[])
    });
    steps.run("clippy without default features", || {
        cargo.run(["clippy", "--workspace", "--no-default-features", "--keep-going", "--", "-D", "warnings"], &[])
    });
    steps.run("each codec alone", || {
        // With the broker's half, which the rest of the workspace has compiled already.
        CODECS.into_iter().try_for_each(|codec| {
            let features = format!("broker,{codec}");
            let alone = ["clippy", "-p", "milena-protocol", "--no-default-features", "--features", &features];
            cargo.run(alone.into_iter().chain(["--", "-D", "warnings"]), &[])
        })
    });
    steps.run("documentation", || {
        cargo.run(
            ["doc", "--workspace", "--no-deps", "--document-private-items", "--keep-going"],
            &[("RUSTDOCFLAGS", "-D warnings")],
        )
    });
    Ok(())
}

/// Clippy cannot ban an unbiased `select!`, so this looks at the text.
fn selects_are_biased() -> Result<()> {
    let mut problems = Vec::new();
    visit(workspace::root(), &mut |path, text| {
        for line in unbiased_selects(text) {
            problems.push(format!("{}:{line}: this select! does not start with `biased;`", path.display()));
        }
    })?;
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

/// Calls `each` with every Rust file below `dir`, in the order of their names.
pub(crate) fn visit(dir: &Path, each: &mut impl FnMut(&Path, &str)) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .map_err(|e| format!("cannot read {}: {e}", dir.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            // Build output, hidden folders, and what nobody replays: benchmarks and examples.
            if name != "target" && name != "bench" && name != "examples" && !name.as_encoded_bytes().starts_with(b".") {
                visit(&path, each)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
            each(path.strip_prefix(workspace::root()).unwrap_or(&path), &text);
        }
    }
    Ok(())
}

/// The line numbers of `select!` calls whose first word is not `biased;`.
fn unbiased_selects(text: &str) -> Vec<usize> {
    // In two parts, so that this file does not find itself.
    let call = concat!("select", "! {");
    text.match_indices(call)
        .filter(|(at, _)| {
            let line_start = text[..*at].rfind('\n').map_or(0, |n| n + 1);
            !text[line_start..*at].contains("//") && !text[at + call.len()..].trim_start().starts_with("biased;")
        })
        .map(|(at, _)| text[..at].lines().count())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unbiased_select_is_found_and_a_comment_is_not() {
        let call = concat!("tokio::select", "!");
        let text = format!(
            "fn f() {{\n    {call} {{\n        biased;\n    }}\n    {call} {{ x = y => {{}} }}\n    // {call} {{ z }}\n}}\n"
        );
        assert_eq!(unbiased_selects(&text), [5]);
    }
}

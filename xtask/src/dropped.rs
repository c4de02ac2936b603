//! Which public calls of the workspace can be dropped while they wait: found in the sources, compared with the table of the test
//! that drops them all.
//!
//! A call is a `pub async fn`, a `pub fn` that returns a future, or a public type that is a future itself. It is named
//! `crate::Type::function`. Test modules, trait implementations and callbacks that users implement are not calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::{Result, check, workspace};

/// The table that names each of them.
const TABLE: &str = "integration-tests/tests/dropped_futures/table.rs";

/// The folders whose calls are public API, and what their crates are called in the table.
const CRATES: [(&str, &str); 6] = [
    ("client/src", "client"),
    ("producer/src", "producer"),
    ("consumer/src", "consumer"),
    ("streams/src", "streams"),
    ("testkit/src", "testkit"),
    ("src", "milena"),
];

/// Calls that start real brokers: at every await, each drop would cost the start of a JVM. `integration-tests/tests/real_cluster.rs`
/// and `containers.rs` drop them once.
const REAL_BROKERS: &str = "testkit/src/real";

/// A call as a source file has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    /// `Type::function`, `function`, or `Type` for a future.
    name: String,
    line: usize,
    /// Whether its documentation says what a drop leaves behind.
    has_paragraph: bool,
}

/// Fails with a sentence for each call that the table lacks, for each row whose call is no more, and for each call that does not say
/// what happens when it is dropped.
pub(crate) fn run() -> Result<()> {
    let table = fs::read_to_string(workspace::root().join(TABLE)).map_err(|e| format!("cannot read {TABLE}: {e}"))?;
    let mut files = Vec::new();
    for (folder, krate) in CRATES {
        check::visit(&workspace::root().join(folder), &mut |path, text| {
            files.push((krate, path.to_owned(), text.to_owned()));
        })?;
    }
    let mut calls = BTreeMap::new();
    let mut problems = Vec::new();
    for (krate, path, text) in &files {
        let of_crate: String = files.iter().filter(|(of, ..)| of == krate).map(|(_, _, text)| text.as_str()).collect();
        for call in calls_of(text, &of_crate) {
            let place = format!("{}:{}", path.display(), call.line);
            if !call.has_paragraph {
                problems.push(format!(
                    "{place}: {krate}::{} has no `# Cancel safety` paragraph: say what is left behind when its future is dropped",
                    call.name
                ));
            }
            if !path.starts_with(REAL_BROKERS) {
                calls.insert(format!("{krate}::{}", call.name), place);
            }
        }
    }
    problems.extend(differences(&calls, &rows_of(&table)));
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

/// What the sources have and the table has not, and the other way round.
fn differences(calls: &BTreeMap<String, String>, rows: &BTreeSet<String>) -> Vec<String> {
    let missing = calls.iter().filter(|(call, _)| !rows.contains(*call)).map(|(call, place)| {
        format!("{place}: {call} is dropped by no test: write a scenario for it, and its row into {TABLE}")
    });
    let gone = rows.iter().filter(|row| !calls.contains_key(*row)).map(|row| {
        format!(
            "{TABLE}: there is no public async call {row} any more: rename its row, or take it out with its scenario"
        )
    });
    missing.chain(gone).collect()
}

/// The calls that the table names.
fn rows_of(table: &str) -> BTreeSet<String> {
    let names = table.split("call: \"").skip(1);
    names.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()).collect()
}

/// The calls of one file. `of_crate` is the text of all files of its crate: macros are called elsewhere, and types are declared there.
fn calls_of(text: &str, of_crate: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut docs = String::new();
    let mut current_macro = None;
    let mut owner = Owner::Nobody;
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let code = line.trim();
        if *line == "#[cfg(test)]"
            && lines.get(index + 1).is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'))
        {
            break; // tests stand at the end
        }
        if code.starts_with("///") {
            docs.push_str(code);
            docs.push('\n');
            continue;
        }
        if code.starts_with("#[") {
            continue;
        }
        if let Some(name) = code.strip_prefix("macro_rules! ") {
            current_macro = Some(name.trim_end_matches(" {").to_owned());
        } else if code.starts_with("impl") && (code.starts_with("impl ") || code.starts_with("impl<")) {
            owner = Owner::of(&until_brace(&lines[index..]));
            if let Owner::FutureOf(name) = &owner
                && of_crate.contains(&format!("pub struct {name}"))
            {
                let has_paragraph = declaration_docs(of_crate, name).contains("# Cancel safety");
                calls.push(Call { name: name.clone(), line: index + 1, has_paragraph });
            }
        } else if line.starts_with('}') {
            (owner, current_macro) = (Owner::Nobody, None);
        } else if let Some(name) = function_that_waits(&lines[index..]) {
            let has_paragraph = docs.contains("# Cancel safety");
            for owner in owner.names(line.starts_with("pub"), current_macro.as_deref(), of_crate) {
                let name = if owner.is_empty() { name.clone() } else { format!("{owner}::{name}") };
                calls.push(Call { name, line: index + 1, has_paragraph });
            }
        }
        docs.clear();
    }
    calls
}

/// Whose block a function stands in.
enum Owner {
    Nobody,
    Type(String),
    /// The future's own implementation of `Future`.
    FutureOf(String),
    Trait,
}

impl Owner {
    fn of(header: &str) -> Self {
        let rest = after_generics(header.trim_start_matches("impl"));
        let name = |text: &str| {
            let text = text.trim();
            let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
            text[..end].to_owned()
        };
        match rest.split_once(" for ") {
            Some((implemented, of)) if matches!(implemented.trim(), "Future" | "std::future::Future") => {
                Self::FutureOf(name(of))
            }
            Some(_) => Self::Trait,
            None => Self::Type(name(rest)),
        }
    }

    /// The types that the function belongs to: several where a macro writes it; none where it belongs to a trait; the empty name for
    /// a free function.
    fn names(&self, is_free: bool, current_macro: Option<&str>, of_crate: &str) -> Vec<String> {
        match self {
            _ if is_free => vec![String::new()],
            Self::Type(name) if name.starts_with('$') => {
                let call = format!("\n{}!(", current_macro.unwrap_or_default());
                let calls = of_crate.split(&call).skip(1).filter_map(|rest| rest.split_once(')'));
                calls.map(|(argument, _)| argument.split(',').next().unwrap_or_default().trim().to_owned()).collect()
            }
            Self::Type(name) => vec![name.clone()],
            Self::Nobody | Self::Trait | Self::FutureOf(_) => Vec::new(),
        }
    }
}

/// The name of the public function that begins here, if its caller waits for it.
fn function_that_waits(lines: &[&str]) -> Option<String> {
    let code = lines[0].trim();
    let name = |rest: &str| rest.split(['(', '<']).next().unwrap_or_default().trim().to_owned();
    if let Some(rest) = code.strip_prefix("pub async fn ") {
        return Some(name(rest));
    }
    let rest = code.strip_prefix("pub fn ")?;
    let signature = until_brace(lines);
    // The last arrow: one before it belongs to a closure among the arguments.
    let (_, returned) = signature.rsplit_once(") -> ")?;
    let returned = returned.split(" where ").next().unwrap_or_default();
    let waits = ["impl Future", "dyn Future", "BoxFuture", "IntoFuture"].iter().any(|what| returned.contains(what));
    waits.then(|| name(rest))
}

/// The text from here to the next opening brace, on one line.
fn until_brace(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines.iter().take(30) {
        let line = line.trim();
        let (part, ends) = match line.split_once('{') {
            Some((part, _)) => (part, true),
            None => (line, line.ends_with(';')),
        };
        text.push_str(part);
        text.push(' ');
        if ends {
            break;
        }
    }
    text
}

/// What follows the generic parameters at the start of `text`.
fn after_generics(text: &str) -> &str {
    let text = text.trim_start();
    if !text.starts_with('<') {
        return text;
    }
    let mut depth = 0;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return text[at + 1..].trim_start();
        }
        before = c;
    }
    text
}

/// The documentation in front of a type's declaration.
fn declaration_docs(of_crate: &str, name: &str) -> String {
    let before = of_crate.split(&format!("pub struct {name}")).next().unwrap_or_default();
    let lines = before.lines().rev().map(str::trim);
    let docs: Vec<&str> =
        lines.take_while(|line| line.is_empty() || line.starts_with("///") || line.starts_with("#[")).collect();
    docs.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
/// A thing.
pub struct Thing<T>(T);

/// Waits.
///
/// # Cancel safety
/// Safe.
pub struct Waiting;

impl<T: Fn() -> u8> Thing<T> {
    /// Goes.
    ///
    /// # Cancel safety
    /// Safe.
    #[must_use]
    pub async fn go<U>(&self, what: U) {}

    /// Comes, sometime.
    pub fn come(
        &self,
        back: impl Fn() -> bool,
    ) -> impl Future<Output = ()> {
    }

    /// Takes a future and does not wait.
    pub fn spawn(&self, task: impl Future<Output = ()>) -> Handle {}

    pub(crate) async fn hidden(&self) {}
}

impl<T> Trait for Thing<T> {
    async fn of_the_trait(&self) {}
}

impl Future for Waiting {
}

impl Future for Private {
}

/// Alone.
pub async fn alone() {}

macro_rules! methods {
    ($thing:ident) => {
        impl $thing {
            /// Reads.
            pub async fn read(&self) {}
        }
    };
}

methods!(One);
methods!(Other);

#[cfg(test)]
mod tests {
    pub async fn not_me() {}
}
";

    #[test]
    fn calls_are_found_where_they_stand() {
        let calls = calls_of(SOURCE, SOURCE);
        let found: Vec<(&str, bool)> = calls.iter().map(|call| (call.name.as_str(), call.has_paragraph)).collect();
        assert_eq!(
            found,
            [
                ("Thing::go", true),
                ("Thing::come", false),
                ("Waiting", true),
                ("alone", false),
                ("One::read", false),
                ("Other::read", false)
            ]
        );
        assert_eq!(calls[0].line, 17);
    }

    #[test]
    fn a_missing_row_and_a_row_too_many_are_said() {
        let table = r#"Row { call: "client::A::a", .. }, Row { call: "client::B::b", .. }"#;
        let place = |name: &str| (name.to_owned(), "a.rs:1".to_owned());
        let calls = BTreeMap::from([place("client::A::a"), place("client::C::c")]);
        let said = differences(&calls, &rows_of(table));
        assert_eq!(said.len(), 2);
        assert!(said[0].starts_with("a.rs:1: client::C::c is dropped by no test: "), "{}", said[0]);
        assert!(said[1].contains("there is no public async call client::B::b any more"), "{}", said[1]);
    }
}
